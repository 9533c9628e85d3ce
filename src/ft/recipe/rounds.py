"""Rounds: stages that are made several times over, each round from what the round before it made.

    - rounds:
        times: 4
        init: {policy: $sft}
        until: {metric: quality.answer, gain_standard_errors: 1}
        stages:
          - {kind: sample, name: answers, init: $policy, …}
          - {kind: sft, name: policy, data: [{path: $answers, pool: all}], …}
          - {kind: evaluate, name: quality, init: $policy, …}

`recipe.unroll` makes ordinary stages of them as the recipe is read: `answers-1`, `policy-1`, `quality-1`, `answers-2`.
Plan, fingerprints, resuming, `require:` and reports need no second mechanism then, and the same recipe written out by
hand has the same results. Only the stop rule is asked later, since it reads what a round measured (`results.store`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RoundsKeys:
    """What stands under `rounds:`.

    times   most rounds that are made
    stages  the stages of one round, in order
    init    name of a stage of the round → the `$stage` above that round 1 takes in its place
    until   after which round no more are needed
    """

    times: int
    stages: list[Any]
    init: dict[str, str] = field(default_factory=dict)
    until: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.times < 1:
            raise ValueError(f"times is {self.times}; it must be at least 1")


@dataclass(frozen=True)
class Until:
    """After which round no more are needed: exactly one of the four rules, asked of one number of each round.

    metric                stage.metric, such as quality.answer: what a stage of the round leaves
    at_least, at_most     enough once the metric is there
    min_gain              enough once a round is not better than the one before by so much
    gain_standard_errors  enough once the gain is smaller than so many standard errors of itself, from the 95 %
                          intervals `metric_low`, `metric_high` of both rounds (taken as independent)
    lower_is_better       for losses and violations: a gain is then a fall
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    min_gain: float | None = None
    gain_standard_errors: float | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        names = ("at_least", "at_most", "min_gain", "gain_standard_errors")
        rules = [name for name in names if getattr(self, name) is not None]
        if len(rules) != 1:
            what = f"{' and '.join(rules)} are all written" if rules else "no rule is written"
            raise ValueError(f"{what}; write one of {', '.join(names)}")
        if not all(re.fullmatch(r"[^.\s]+", part) for part in (self.stage, self.number)):
            raise ValueError(f"metric '{self.metric}' names no number of a stage; write stage.metric")

    @property
    def stage(self) -> str:
        """The stage of the round that leaves the number."""
        return self.metric.partition(".")[0]

    @property
    def number(self) -> str:
        return self.metric.partition(".")[2]

    def enough(self, rounds: Sequence[Mapping[str, Any]]) -> str | None:
        """Why no round after these is needed, in words; None while one is.

        `rounds` holds the numbers of each, in order. A number that is not finite is never enough.
        """
        now = self._value(rounds[-1], "")
        if self.at_least is not None:
            return f"{self.metric} is {now:.4g}, at least {self.at_least:g}" if now >= self.at_least else None
        if self.at_most is not None:
            return f"{self.metric} is {now:.4g}, at most {self.at_most:g}" if now <= self.at_most else None
        if len(rounds) < 2:
            return None
        gain = (now - self._value(rounds[-2], "")) * (-1 if self.lower_is_better else 1)
        least, words = self._least_gain(rounds[-2], rounds[-1])
        return f"{self.metric} gained {gain:.4g}, less than {words}" if gain < least else None

    def _least_gain(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[float, str]:
        if self.min_gain is not None:
            return self.min_gain, f"{self.min_gain:g}"
        assert self.gain_standard_errors is not None
        # 95 % intervals are 2 × 1.96 standard errors wide; errors of independent measurements add up in squares
        widths = [(self._value(one, "_high") - self._value(one, "_low")) / (2 * 1.96) for one in (before, now)]
        error = math.hypot(*widths)
        return self.gain_standard_errors * error, f"{self.gain_standard_errors:g} × its standard error of {error:.2g}"

    def _value(self, numbers: Mapping[str, Any], end: str) -> float:
        value = numbers.get(f"{self.number}{end}")
        return float(value) if isinstance(value, (int, float)) else math.nan

    def lacking(self, numbers: Mapping[str, Any]) -> list[str]:
        """The numbers that the rule reads and that are not there."""
        ends = ("", "_low", "_high") if self.gain_standard_errors is not None else ("",)
        return [f"{self.number}{end}" for end in ends if math.isnan(self._value(numbers, end))]


@dataclass(frozen=True)
class Rounds:
    """One `rounds:` after unrolling. `names` are those of its stages as written, in order, without the round."""

    where: str
    times: int
    names: tuple[str, ...]
    until: Until | None = None

    def stage(self, name: str, number: int) -> str:
        """The name of a stage in a round, counted from 1."""
        return f"{name}-{number}"

    def stages(self, name: str, rounds: int | None = None) -> list[str]:
        """The names of a stage in the first `rounds` rounds, or in all."""
        return [self.stage(name, number) for number in range(1, (self.times if rounds is None else rounds) + 1)]

    def number(self, stage: str) -> int | None:
        """The round that a stage of the unrolled recipe belongs to; None: it stands outside."""
        name, _, number = stage.rpartition("-")
        return int(number) if name in self.names and number.isdigit() and 1 <= int(number) <= self.times else None

    def decides(self, stage: str) -> int | None:
        """The round after which the stop rule is asked, where it reads a number of `stage`."""
        number = self.number(stage)
        return number if number and self.until and stage == self.stage(self.until.stage, number) else None
