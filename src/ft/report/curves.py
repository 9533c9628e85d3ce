"""Curves of a stage that trains, from metrics.jsonl: what a reader wants first, and the rest folded away."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft import artifacts
from ft.report.left import Left
from ft.report.parts import Charts, Lines, Point, Section, Series

MOST_POINTS = 120
BOOKKEEPING = re.compile(r"step|epoch|total_flos|.*_runtime|.*_per_second|(eval_)?num_tokens|train_loss")


@dataclass(frozen=True)
class Panel:
    """A chart of what is logged under `keys` (name in the legend → key), of training and of held-out rows."""

    title: str
    y: str
    keys: Mapping[str, str]
    share: bool = False
    level: float | None = None


PANELS = (
    Panel("Loss", "nats", {"": "loss"}),
    Panel("Margin of chosen over rejected", "reward", {"": "rewards/margins"}),
    Panel("Pairs ranked right", "share", {"": "rewards/accuracies"}, share=True, level=0.5),
    Panel("Log-probability of answers", "nats", {"chosen": "logps/chosen", "rejected": "logps/rejected"}),
    Panel("Pairs ranked right", "share", {"": "accuracy"}, share=True, level=0.5),
    Panel("Score", "score", {"mean": "mean_reward", "chosen less rejected": "margin"}),
    Panel("Safety loss", "nats", {"": "safety_loss"}),
    Panel("Reward", "reward", {"": "reward"}),
    Panel("Distance to the reference (KL)", "nats an answer", {"answers": "answers/kl", "trainer": "kl"}, level=0.0),
    Panel("Length of answers", "tokens", {"": "answers/length"}),
    Panel("Answers cut, empty, repeating", "share", {w: f"answers/{w}" for w in ("cut", "empty", "repetition")}, True),
    Panel("Entropy", "nats a token", {"": "entropy"}),
)
Values = Mapping[str, tuple[Point, ...]]
"""Key → what is logged under it, by step."""


def curves(left: Left, in_front: int | None) -> tuple[list[Section], list[float]]:
    """The sections, and the values of the line that stands for all: held-out loss, else reward, else loss.

    Of the panels so many stand `in_front`, the others folded away; None: all.
    """
    values = logged(left.lines(artifacts.METRICS))
    if not values:
        return [], []
    left.taken |= {"loss.png", "preferences.png", "reward.png", "learning.png"}
    charts = [chart for panel in PANELS if (chart := _chart(panel, values))]
    front = charts[:in_front]
    others = [Panel(key, key, {"": key}) for key in _others(values)]
    rest = charts[len(front) :] + [chart for panel in others if (chart := _chart(panel, values))]
    sections = [Section("Curves", (Charts(tuple(front)),))] if front else []
    if rest:
        sections.append(Section("More curves", (Charts(tuple(rest)),), folded=True))
    held_out = values.get("eval_loss", ())
    stands = held_out if len(held_out) > 1 else values.get("reward") or values.get("loss", ())
    return sections, [point.y for point in thinned(stands)]


def logged(lines: Sequence[Mapping[str, Any]]) -> Values:
    """Every number of the lines that have a step."""
    found: dict[str, list[Point]] = {}
    for line in lines:
        step = line.get("step")
        if not isinstance(step, (int, float)):
            continue
        for key, value in line.items():
            if type(value) in (int, float) and not BOOKKEEPING.fullmatch(key):
                found.setdefault(key, []).append(Point(step, value))
    return {key: tuple(points) for key, points in found.items()}


def _chart(panel: Panel, values: Values) -> Lines | None:
    found = []
    for name, key in panel.keys.items():
        held_out, trained = values.get(f"eval_{key}"), values.get(key)
        if held_out:
            found.append(Series(", ".join(filter(None, (name, "held out"))), thinned(held_out)))
        if trained:
            label = ", ".join(filter(None, (name, "training rows"))) if held_out or not name else name
            found.append(Series(label, thinned(trained), thin=bool(held_out)))
    if not found:
        return None
    return Lines(panel.title, "step", panel.y, tuple(found), panel.share, panel.level, note=_thinned(panel, values))


def _thinned(panel: Panel, values: Values) -> str:
    most = max(len(values.get(f"{side}{key}", ())) for key in panel.keys.values() for side in ("", "eval_"))
    every = -(-most // MOST_POINTS)
    return f"Every {every}th of {most:,} logged values." if every > 1 else ""


def thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """At most MOST_POINTS of them, evenly, and the last in any case."""
    every = -(-len(points) // MOST_POINTS) or 1
    kept = tuple(points[::every])
    return kept if not points or kept[-1] == points[-1] else (*kept, points[-1])


def _others(values: Values) -> list[str]:
    """Keys that no panel shows, without their prefix of held-out rows."""
    shown = {key for panel in PANELS for key in panel.keys.values()}
    keys = dict.fromkeys(key.removeprefix("eval_") for key in values)
    return [key for key in keys if key not in shown]
