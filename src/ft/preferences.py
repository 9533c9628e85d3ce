"""Which of two answers is to be preferred, by their scores and lengths: pure functions, for pairs and for win rates.

Each returns 1 where the first answer is preferred, -1 where the second is, 0 where neither. To add one: a function and
one line in PREFERENCES. `text`, `figure`, `code` and `evaluation` are four variants of one rule, which Anyscale's
"Preference Tuning for Summarization using Synthetic Data" gives in these four places: docs/summarize.md compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ALIKE = 0.1
"""Answers whose lengths differ by at most this share of the longer one are of similar length."""


@dataclass(frozen=True)
class RatedAnswer:
    """What a preference looks at: how good an answer is, and how long, in words."""

    score: float
    words: int


@dataclass(frozen=True)
class PreferenceLimits:
    """threshold       of the score: where both answers are good enough, the shorter one is preferred
    min_difference  words by which it must be shorter
    margin          of scores, for `margin`: a smaller difference prefers neither
    """

    threshold: float = 3.0
    min_difference: int = 3
    margin: float = 1.0


Sign = Literal[-1, 0, 1]
Preference = Callable[[RatedAnswer, RatedAnswer, PreferenceLimits], Sign]


def text(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """As the document's text: good is a score above the threshold; below it equal scores prefer neither."""
    good = min(first.score, second.score) > limits.threshold
    return _shorter(first, second, limits.min_difference) if good else _higher_score(first, second)


def figure(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """As its figure: good is a score at the threshold; below it the shorter of equal scores is preferred."""
    if _are_good(first, second, limits):
        return _shorter(first, second, limits.min_difference)
    return _higher_score(first, second) or _shorter(first, second, limits.min_difference)


def code(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """As the code that makes its pairs: good is a score at the threshold; below it equal scores prefer neither."""
    if _are_good(first, second, limits):
        return _shorter(first, second, limits.min_difference)
    return _higher_score(first, second)


def evaluation(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """As the code that evaluates: one word less is enough, and below the threshold too the shorter of equal scores."""
    if _are_good(first, second, limits):
        return _shorter(first, second, 1)
    return _higher_score(first, second) or _shorter(first, second, 1)


def margin(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """The higher score, of any sort, where it is higher by the margin; length plays no part."""
    return _higher_score(first, second) if abs(first.score - second.score) >= limits.margin else 0


def length_controlled(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> Sign:
    """The higher score of two answers of similar length, so that nothing is won by being short or long."""
    return _higher_score(first, second) if of_like_length(first.words, second.words) else 0


def of_like_length(first: int, second: int) -> bool:
    return abs(first - second) <= ALIKE * max(first, second)


def _are_good(first: RatedAnswer, second: RatedAnswer, limits: PreferenceLimits) -> bool:
    return min(first.score, second.score) >= limits.threshold


def _higher_score(first: RatedAnswer, second: RatedAnswer) -> Sign:
    return _sign(first.score - second.score)


def _shorter(first: RatedAnswer, second: RatedAnswer, min_difference: int) -> Sign:
    difference = second.words - first.words
    return _sign(difference) if abs(difference) >= min_difference else 0


def _sign(difference: float) -> Sign:
    return 1 if difference > 0 else -1 if difference < 0 else 0


PREFERENCES: dict[str, Preference] = {
    "text": text,
    "figure": figure,
    "code": code,
    "evaluation": evaluation,
    "margin": margin,
    "length_controlled": length_controlled,
}
