"""Which of K scored answers to keep, and how much K is worth: pure functions of scores.

Rejection sampling (Llama 2, arXiv:2307.09288, section 3.2.3) draws K answers to a prompt and keeps the best by score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def sigmoid(score: float) -> float:
    """From 0 to 1, without overflow at either end."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    grown = math.exp(score)
    return grown / (1 + grown)


def best(scores: Sequence[float]) -> int:
    """Place of the best score, the first of them where several are equal."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def pair(scores: Sequence[float]) -> tuple[int, int] | None:
    """Places of the best and of the worst score, each the first of its like; None where all are equal."""
    worst = min(range(len(scores)), key=lambda place: (scores[place], place))
    return None if scores[best(scores)] == scores[worst] else (best(scores), worst)


@dataclass(frozen=True)
class Point:
    """What N answers are worth, as the mean over prompts: the best of them, and the one in the middle."""

    answers: int
    best: float
    median: float


def curve(scored: ArrayLike) -> list[Point]:
    """Best and median of N answers for N = 1 … K, from K scores of each prompt.

    Not the first N are looked at but all subsets of N, in closed form, so that nothing depends on the order: the best
    never falls as N grows, and at N = K it is the mean of each prompt's best score.
    """
    import numpy as np

    ordered = np.sort(np.array(scored, dtype=np.float64), axis=1).mean(axis=0)  # the mean of each rank
    points = []
    for n in range(1, len(ordered) + 1):
        middle = [_rank_weights(len(ordered), n, rank) for rank in {(n + 1) // 2, n // 2 + 1}]
        top = _rank_weights(len(ordered), n, n)
        points.append(Point(n, float(ordered @ np.array(top)), float(np.mean([ordered @ np.array(w) for w in middle]))))
    return points


def of_best(scored: ArrayLike, values: ArrayLike) -> list[float]:
    """What the best of N answers is worth by another measure, for N = 1 … K: `values` are those of the answers in
    `scored`. So it is seen whether what scores high is good."""
    import numpy as np

    # Turned round, a stable sort leaves the first of equal scores highest, as `best` does.
    scores, values_by_score = (np.array(table, dtype=np.float64)[:, ::-1] for table in (scored, values))
    by_rank = np.take_along_axis(values_by_score, np.argsort(scores, axis=1, kind="stable"), axis=1).mean(axis=0)
    return [float(by_rank @ np.array(_rank_weights(len(by_rank), n, n))) for n in range(1, len(by_rank) + 1)]


def _rank_weights(count: int, subset_size: int, rank: int) -> list[float]:
    """How likely each of `count` sorted scores has this rank (1 is the lowest) in a random subset of `subset_size`."""
    subsets = math.comb(count, subset_size)
    return [math.comb(i, rank - 1) * math.comb(count - 1 - i, subset_size - rank) / subsets for i in range(count)]


def hottest(worth: Callable[[float], float], temperatures: Sequence[float]) -> float:
    """The temperature that is worth most, the lowest of them where several are."""
    return max(sorted(temperatures), key=worth)
