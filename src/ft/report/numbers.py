"""The numbers a stage left, for the terminal and for the page: which belong together, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft.figures.numbers import format_number, is_finite

HELD_OUT, LOSS = "held-out loss", "loss"
OF_LOSS = ("perplexity", "bits_per_byte")  # the loss in other units
LABELS = {
    "answer": "answers right",
    "says": "answers that say it",
    "accuracy": "pairs ranked right",
    "win_rate": "wins, ties as half",
    "correct": "answers right",
    "kl": "KL to the baseline, nats",
}


@dataclass(frozen=True)
class Number:
    """A value, what it was before, and their 95 % intervals; None where the stage left none."""

    name: str
    value: float
    was: float | None = None
    low: float | None = None
    high: float | None = None
    was_low: float | None = None
    was_high: float | None = None

    @property
    def label(self) -> str:
        turn = re.fullmatch(r"turn_(\d+)", self.name)
        return f"obeyed in turn {turn[1]}" if turn else LABELS.get(self.name, self.name.replace("_", " "))

    @property
    def share(self) -> bool:
        """A part of a whole, written in percent: everything that has an interval between 0 and 1."""
        if self.name in (HELD_OUT, LOSS) or self.low is None or self.high is None:
            return False
        return self.low >= 0 and self.high <= 1

    @property
    def text(self) -> str:
        return format_number(self.value, self.share)

    @property
    def interval(self) -> str:
        """'95.0% to 99.1%', or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{format_number(self.low, self.share)} to {format_number(self.high, self.share)}"


def duration(seconds: float | None) -> str:
    """'48 s', '3 min 12 s', '2 h 5 min'."""
    if seconds is None:
        return "·"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, seconds_left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {seconds_left} s"
    return f"{minutes // 60} h {minutes % 60} min"


def numbers_of(metrics: Mapping[str, Any]) -> list[Number]:
    """All numbers of a `done.json` or `metrics.json`: losses, then those with intervals, then the others.

    The training loss is left out where a held-out one stands beside it: single batches differ in what they hold.
    """
    values = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and (isinstance(value, float) or is_finite(value))
    }
    losses: list[Number] = []
    for name, last in ((HELD_OUT, "eval_loss"), (LOSS, "loss")):
        value = values.pop(last, values.pop(f"{last}_last", None))
        if value is not None and not losses:
            losses.append(replace(_number(last, {**values, last: value}), name=name))
    ends = {f"{name}{end}" for name in (*values, "eval_loss", "loss") for end in ("_low", "_high", "_first")}
    others = [_number(name, values) for name in values if name not in ends and not name.startswith("baseline_")]
    return [*losses, *(n for n in others if n.low is not None), *(n for n in others if n.low is None)]


def _is_number(value: object) -> bool:
    """Whole numbers that no float can hold are none."""
    return isinstance(value, float) or (isinstance(value, int) and is_finite(value))


def _number(name: str, metrics: Mapping[str, Any]) -> Number:
    was = metrics.get(f"baseline_{name}", metrics.get(f"{name}_first"))
    return Number(name, metrics[name], was, *_interval(name, metrics), *_interval(f"baseline_{name}", metrics))


def _interval(name: str, metrics: Mapping[str, Any]) -> tuple[float, float] | tuple[None, None]:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None, None
    return low, high


def number_words(metrics: Mapping[str, Any]) -> list[str]:
    """'held-out loss 2.280 → 0.431', 'answer 3.1% → 97.4% (95% interval 95.0% to 99.0%)', and the counts there are."""
    words = []
    for number in numbers_of(metrics):
        was = f"{format_number(number.was, number.share)} → " if number.was is not None else ""
        if number.name in (HELD_OUT, LOSS):
            was = f"{number.was:.3f} → " if number.was else ""
            words.append(f"{number.name} {was}{number.value:.3f}")
        elif number.name in OF_LOSS:
            words.append(f"{number.label} {was}{number.text}")
        elif number.interval:
            words.append(f"{number.name} {was}{number.text} (95% interval {number.interval})")
        elif number.was is not None:
            words.append(f"{number.name} {was}{number.text}")
        elif isinstance(number.value, int) and not isinstance(number.value, bool) and number.value:
            words.append(f"{number.name} {number.value:,}")
    return words


def main_number(headline: str, numbers: list[Number]) -> Number | None:
    """The one number to show of a stage: what its kind is made for, one with an interval, or where the loss ended.

    `headline` is a pattern of its name; of several the last one, which is the hardest.
    """
    headlines = [n for n in numbers if headline and re.fullmatch(headline, n.name)]
    sure = [n for n in numbers if n.low is not None]
    changed = [n for n in numbers if n.was is not None]
    return headlines[-1] if headlines else next(iter([*sure, *changed, *(n for n in numbers if n.name == LOSS)]), None)
