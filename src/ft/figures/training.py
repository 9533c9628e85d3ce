"""Curves of a stage that trains, from metrics.jsonl."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from ft import artifacts
from ft.figures.charts import Chart, Lines, Point, Series, thin_out
from ft.figures.numbers import format_number, is_finite
from ft.figures.result_files import ResultFiles
from ft.figures.write import Figures

MOST_POINTS, FEW_POINTS = 120, 60  # of a line; fewer where it is folded away
SMOOTHED_FROM = 20  # values, where single batches of rows hide what the loss does
SPAN = 10  # a smoothed value weighs those before it less by e every so many
BOOKKEEPING = re.compile(r"step|epoch|total_flos|.*_runtime|.*_per_second|(eval_)?num_tokens|train_loss|peak_memory")
RISE = 1.02  # times the lowest eval loss; the last steps of a schedule move it by less

Values = Mapping[str, tuple[Point, ...]]
"""Key → what is logged under it, by step."""


@dataclass(frozen=True)
class Panel:
    """A chart of what is logged under `keys` (name in the legend → key), of training and of held-out rows."""

    title: str
    y: str
    keys: Mapping[str, str]
    share: bool = False
    level: float | None = None


LOSS = "Loss"
KL = Panel("Distance to the reference (KL)", "nats an answer", {"answers": "answers/kl", "trainer": "kl"}, level=0.0)
PANELS = (
    Panel(LOSS, "nats", {"": "loss"}),
    Panel("Learning rate", "", {"Learning rate": "learning_rate"}),
    Panel("Reward margin (chosen − rejected)", "reward", {"": "rewards/margins"}),
    Panel("Reward accuracy", "share", {"": "rewards/accuracies"}, share=True, level=0.5),
    Panel("Label accuracy", "share", {"": "labels/accuracies"}, share=True, level=0.5),
    Panel("Log-probability of answers", "nats", {"chosen": "logps/chosen", "rejected": "logps/rejected"}),
    Panel("Pair accuracy", "share", {"": "accuracy"}, share=True, level=0.5),
    Panel("Score", "score", {"mean": "mean_reward", "score margin (chosen − rejected)": "margin"}),
    Panel("Safety loss", "nats", {"": "safety_loss"}),
    Panel("Reward", "reward", {"": "reward"}),
    KL,
    Panel("Length of answers", "tokens", {"": "answers/length"}),
    Panel("Answers cut, empty, repeating", "share", {w: f"answers/{w}" for w in ("cut", "empty", "repetition")}, True),
    Panel("Explained variance of the critic", "", {"": "value/explained_variance"}),
    Panel("Entropy", "nats a token", {"": "entropy"}),
)


@dataclass(frozen=True)
class Curves:
    """`panels`: charts of what every stage of the kind logs. `others`: of everything else. `values`: of the line that
    stands for all, eval loss, else reward, else loss."""

    panels: tuple[Chart, ...] = ()
    others: tuple[Chart, ...] = ()
    values: tuple[float, ...] = ()


def curves(files: ResultFiles) -> Curves:
    """Everything that metrics.jsonl says by step."""
    lines = files.lines(artifacts.METRICS)
    values, epochs = logged_values(lines), _epochs_per_step(lines)
    best = _Best.of(files.blocks.get("train") or {})
    panels = [chart for panel in _panels(values, files.blocks) if (chart := _chart(panel, values, epochs, best))]
    folded = (Panel(key, "", {"": key}) for key in _other_keys(values))
    others = [chart for panel in folded if (chart := _chart(panel, values, epochs, best, FEW_POINTS))]
    held_out = values.get("eval_loss", ())
    line = held_out if len(held_out) > 1 else values.get("reward") or values.get("loss", ())
    return Curves(tuple(panels), tuple(others), tuple(point.y for point in thin_out(line, MOST_POINTS)))


def curve_files(files: ResultFiles) -> Figures:
    run_curves = curves(files)
    return {"curves": [*run_curves.panels, *run_curves.others]}


def _panels(values: Values, blocks: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """The panels, with the bound that a stage watches drawn where the distance comes near it."""
    from ft.rl.guard import GuardOptions

    bound = (blocks.get("guard") or {}).get("kl", GuardOptions.kl)
    distances = [point.y for point in values.get("answers/kl", ())]
    if bound is None or not any(distance > bound / 2 for distance in distances):
        return list(PANELS)
    bounded = replace(KL, title=f"{KL.title}; line: guard.kl {bound:g}", level=float(bound))
    return [bounded if panel is KL else panel for panel in PANELS]


def logged_values(lines: Sequence[Mapping[str, Any]]) -> Values:
    """Every number of the lines that have a step; null, as JSON has it for a loss that diverged, is NaN."""
    by_key: dict[str, list[Point]] = {}
    for line in lines:
        step = line.get("step")
        if not isinstance(step, (int, float)):
            continue
        for key, value in line.items():
            if (value is None or type(value) in (int, float)) and not BOOKKEEPING.fullmatch(key):
                by_key.setdefault(key, []).append(Point(step, math.nan if value is None else value))
    return {key: tuple(points) for key, points in by_key.items()}


def _epochs_per_step(lines: Sequence[Mapping[str, Any]]) -> float:
    """By the last line that knows both; each step reads as many rows as the others."""
    known = ((line.get("epoch"), line.get("step")) for line in reversed(lines))
    return next((epoch / step for epoch, step in known if _is_positive(epoch) and _is_positive(step)), 0.0)


def _is_positive(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and is_finite(value) and value > 0  # type: ignore[arg-type,operator]


@dataclass(frozen=True)
class _Best:
    """Which value says what step is the best, and whether that step's weights are what the stage leaves."""

    key: str
    greater: bool
    is_kept: bool

    @classmethod
    def of(cls, train: Mapping[str, Any]) -> _Best:
        """As transformers' TrainingArguments has it: the loss, unless `metric_for_best_model` names another value."""
        key = str(train.get("metric_for_best_model") or "loss").removeprefix("eval_")
        greater = train.get("greater_is_better")
        return cls(
            key,
            not key.endswith("loss") if greater is None else bool(greater),
            bool(train.get("load_best_model_at_end")),
        )

    def point(self, points: Sequence[Point]) -> Point | None:
        """Of several; nothing is the best of one."""
        finite_points = [point for point in points if point.is_finite]
        sign = 1 if self.greater else -1
        return max(finite_points, key=lambda point: sign * point.y) if len(finite_points) > 1 else None

    def note(self, point: Point, last: Point) -> str:
        of = "eval loss" if self.key == "loss" else self.key
        kept = ", whose weights are kept" if self.is_kept else ""
        words = f"Ring: best step {point.x:,g} ({of} {format_number(point.y)}){kept}."
        rose = self.key == "loss" and rise(point.y, last.y)
        return (
            f"{words} The eval loss rose to {format_number(last.y)} by step {last.x:,g}: overfitting."
            if rose
            else words
        )


def rise(best: float, last: float) -> bool:
    """Whether the eval loss was clearly lower before the end: the model overfits from there on."""
    return last > RISE * best > 0


def _chart(panel: Panel, values: Values, epochs: float, best: _Best, most: int = MOST_POINTS) -> Lines | None:
    series = []
    for name, key in panel.keys.items():
        held_out, trained = values.get(f"eval_{key}"), values.get(key)
        if held_out:
            series.append(Series(", ".join(filter(None, (name, "held out"))), thin_out(held_out, most)))
        if trained:
            label = ", ".join(filter(None, (name, "training rows"))) if held_out or not name else name
            is_noisy = panel.title == LOSS and len(trained) >= SMOOTHED_FROM
            if is_noisy:
                series.append(Series(f"{label}, smoothed", thin_out(smooth(trained), most)))
            series.append(Series(label, thin_out(trained, most), thin=bool(held_out) or is_noisy))
    if not series:
        return None
    measured = values.get(f"eval_{best.key}", ()) if best.key in panel.keys.values() else ()
    point = best.point(measured)
    best_note = best.note(point, measured[-1]) if point else ""
    note = " ".join(filter(None, (best_note, _thinning_note(panel, values, most))))
    return Lines(
        panel.title, "step", panel.y, tuple(series), panel.share, panel.level, note=note, best=point, epochs=epochs
    )


def smooth(points: Sequence[Point]) -> tuple[Point, ...]:
    """Each value as the mean of it and all before it, of which the weight falls exponentially; a value that is not
    finite is left as it is, and counts in no mean."""
    keep, total, weights, smoothed = math.exp(-1 / SPAN), 0.0, 0.0, []
    for point in points:
        if point.is_finite:
            total, weights = keep * total + point.y, keep * weights + 1
        smoothed.append(Point(point.x, total / weights if point.is_finite else point.y))
    return tuple(smoothed)


def _thinning_note(panel: Panel, values: Values, most: int) -> str:
    longest = max(len(values.get(f"{side}{key}", ())) for key in panel.keys.values() for side in ("", "eval_"))
    stride = -(-longest // most)
    return f"Every {stride}th of {longest:,} logged values." if stride > 1 else ""


def _other_keys(values: Values) -> list[str]:
    """Keys that no panel shows, without their prefix of held-out rows."""
    in_panels = {key for panel in PANELS for key in panel.keys.values()}
    keys = dict.fromkeys(key.removeprefix("eval_") for key in values)
    return [key for key in keys if key not in in_panels]
