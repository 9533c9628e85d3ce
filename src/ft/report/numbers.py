"""The numbers a stage left, for the terminal and for the page: which belong together, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ft.figures.numbers import format_number, is_finite
from ft.figures.training import rise

HELD_OUT, LOSS = "eval loss", "training loss"
OF_LOSS = ("perplexity", "bits_per_byte")  # the loss in other units
SHOWN = 3  # of a stage's numbers, in a line
LABELS = {
    "answer": "accuracy",
    "says": "answers with the wanted phrase",
    "correct": "accuracy",
    "obeying": "answers that follow the instruction",
    "unfinished": "cut off at the longest length",
    "accuracy": "pair accuracy",
    "accuracy_strict": "pair accuracy, ties as wrong",
    "over_longer": "pair accuracy above “the longer answer wins”",
    "accuracies": "reward accuracy",
    "margins": "reward margin",
    "margin": "score margin",
    "logps_chosen": "log-probability of chosen answers (nats)",
    "logps_rejected": "log-probability of rejected answers (nats)",
    "win_rate": "win rate (ties count half)",
    "like_length_pairs": "pairs of similar length",
    "like_length_win_rate": "win rate at similar length",
    "longer_pairs": "pairs of different length",
    "longer_wins": "the longer answer wins",
    "same": "identical answers",
    "kl": "KL (nats per answer)",
    "kl_error": "standard error of the KL",
    "kept_step": "best step",
    "held_out": "eval prompts",
    "repeated": "duplicate prompts",
    "length": "tokens per answer",
    "contrast": "contrastive loss",
    "matching": "matching loss",
    "generation": "generation loss",
    "vqa_accuracy": "VQA accuracy",
    "explained_variance": "explained variance of the critic",
}
PATTERNS = {
    r"turn_(\d+)": "follow the instruction in turn {}",
    r"attention_turn_(\d+)": "attention to the instruction in turn {}",
    r"(text|image)_r(\d+)": "R@{1}, the right {0} found",
    r"best_of_(\d+)": "reward of the best of {}",
    r"(?:other_)?accuracy_([1-4])": "pair accuracy, rating {}",
    r"accuracy_([a-z]+)": "pair accuracy, {}",
}
SHARES = re.compile(r"accuracies|(other_)?accuracy(_\w+)?|obeying|over_longer")
"""Parts of a whole that no interval stands beside."""


@dataclass(frozen=True)
class Number:
    """A value, what it was before, and their 95 % intervals; None where the stage left none.

    was_step  the training step at which it was that; None where nobody knows, or where it was before training
    """

    name: str
    value: float
    was: float | None = None
    low: float | None = None
    high: float | None = None
    was_low: float | None = None
    was_high: float | None = None
    was_step: int | None = None

    @property
    def label(self) -> str:
        if self.name in LABELS:
            return LABELS[self.name]
        matches = ((re.fullmatch(pattern, self.name), label) for pattern, label in PATTERNS.items())
        return next((label.format(*match.groups()) for match, label in matches if match), self.name.replace("_", " "))

    @property
    def share(self) -> bool:
        """A part of a whole, written in percent: what has an interval between 0 and 1, and what is known to be one."""
        if SHARES.fullmatch(self.name):
            return True
        if self.name in (HELD_OUT, LOSS) or self.low is None or self.high is None:
            return False
        return self.low >= 0 and self.high <= 1

    @property
    def text(self) -> str:
        return format_number(self.value, self.share)

    @property
    def before(self) -> str:
        """'12.0%', '0.915 (step 50)' where it was first measured while it trained, or nothing."""
        at = f" (step {self.was_step:,})" if self.was_step else ""
        return format_number(self.was, self.share) + at if self.was is not None else ""

    @property
    def words(self) -> str:
        """'eval loss 2.280 → 0.431', 'accuracy 3.1% → 97.4% (95% interval 95.0% to 99.0%)', '572 steps'."""
        if isinstance(self.value, int) and not isinstance(self.value, bool) and self.was is None:
            return f"{self.value:,} {self.label}"
        was = f"{self.before} → " if self.before else ""
        return f"{self.label} {was}{self.text}" + (f" (95% interval {self.interval})" if self.interval else "")

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


ENDS = ("_low", "_high", "_first", "_first_step", "_best", "_best_step")


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
    ends = {f"{name}{end}" for name in (*values, "eval_loss", "loss") for end in ENDS}
    others = [_number(name, values) for name in values if name not in ends and not name.startswith("baseline_")]
    return [*losses, *(n for n in others if n.low is not None), *(n for n in others if n.low is None)]


def _is_number(value: object) -> bool:
    """Whole numbers that no float can hold are none."""
    return isinstance(value, float) or (isinstance(value, int) and is_finite(value))


def _number(name: str, metrics: Mapping[str, Any]) -> Number:
    was, step = metrics.get(f"baseline_{name}", metrics.get(f"{name}_first")), metrics.get(f"{name}_first_step")
    if step and step == metrics.get("steps"):
        was = None  # the first evaluation was the last one too
    (low, high), (was_low, was_high) = _interval(name, metrics), _interval(f"baseline_{name}", metrics)
    return Number(name, metrics[name], was, low, high, was_low, was_high, step)


def _interval(name: str, metrics: Mapping[str, Any]) -> tuple[float, float] | tuple[None, None]:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None, None
    return low, high


def summary(metrics: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """The numbers that matter in a line."""
    return ", ".join(number.words for number in main_numbers(metrics, names))


def main_numbers(metrics: Mapping[str, Any], names: Sequence[str] = ()) -> list[Number]:
    """SHOWN numbers at most: those that the patterns `names` name, in their order and of several the last, which is the
    hardest; without patterns the first that are compared or sure, then counts."""
    numbers = numbers_of(metrics)
    named = [matches[-1] for name in names if (matches := [n for n in numbers if re.fullmatch(name, n.name)])]
    return (named or [number for number in numbers if _speaks_for_itself(number)])[:SHOWN]


def _speaks_for_itself(number: Number) -> bool:
    if number.name in (HELD_OUT, LOSS, *OF_LOSS) or number.interval or number.was is not None:
        return True
    return isinstance(number.value, int) and not isinstance(number.value, bool) and number.value != 0


def rise_warning(metrics: Mapping[str, Any]) -> str:
    """That the eval loss was lower before the end, or nothing."""
    best, last, step = (metrics.get(f"eval_loss{end}") for end in ("_best", "", "_best_step"))
    if not all(_is_number(value) for value in (best, last, step)) or not rise(best, last):  # type: ignore[arg-type]
        return ""
    what = f"The eval loss was lowest at step {step:,} ({best:.3f}) and rose to {last:.3f}: it overfits from there on."
    return f"{what} Train fewer epochs, or keep the best checkpoint with `load_best_model_at_end: true`."


def main_number(headline: str, numbers: list[Number]) -> Number | None:
    """The one number to show of a stage: what its kind is made for, one with an interval, or where the loss ended.

    `headline` is a pattern of its name; of several the last one, which is the hardest.
    """
    headlines = [n for n in numbers if headline and re.fullmatch(headline, n.name)]
    sure = [n for n in numbers if n.low is not None]
    changed = [n for n in numbers if n.was is not None]
    return headlines[-1] if headlines else next(iter([*sure, *changed, *(n for n in numbers if n.name == LOSS)]), None)
