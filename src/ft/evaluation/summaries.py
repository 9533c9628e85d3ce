"""What summaries are worth, in numbers: how many questions they answer, how short they are, which of two is better.

Pure functions. The columns are those of the table in Anyscale's "Preference Tuning for Summarization using Synthetic
Data", whose intervals are not printed there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from ft.evaluation.statistics import of_shares, wilson
from ft.evaluation.win_rate import PairOutcome, rate
from ft.preferences import PREFERENCES, PreferenceLimits, RatedAnswer, of_like_length

ARTICLE = "article"
"""The column of a row with the text that is summarized."""
SIGNS = "‘’‚“”„–—…•·′″€£°×"
"""Typographic signs that a summary may hold beside ASCII."""

Invalid = Literal["", "too_few_words", "too_many_words", "characters"]


@dataclass(frozen=True)
class Summary:
    """A summary of an article; `right` of the quiz's `questions` are answered by it, None where nobody could tell."""

    text: str
    article: str
    right: int | None
    questions: int

    @property
    def words(self) -> int:
        return count_words(self.text)

    @property
    def compression(self) -> float:
        """Its words by those of the article: less is shorter."""
        return self.words / max(1, count_words(self.article))

    @property
    def is_too_long(self) -> bool:
        return len(self.text) >= len(self.article)


def count_words(text: str) -> int:
    return len(text.split())


def has_invalid_characters(text: str) -> bool:
    """Whether anything but ASCII and SIGNS is left when accents are taken off their letters."""
    rest = "".join(char for char in text if char not in SIGNS)
    return any(not char.isascii() and not unicodedata.combining(char) for char in unicodedata.normalize("NFD", rest))


def why_invalid(text: str, least_words: int, most_words: int) -> Invalid:
    """Why a summary cannot stand in a pair; "" where it can. `most_words` is the first number that is too many."""
    words = count_words(text)
    if words < least_words:
        return "too_few_words"
    if words >= most_words:
        return "too_many_words"
    return "characters" if has_invalid_characters(text) else ""


def quality(summaries: Sequence[Summary], levels: Sequence[int], seed: int) -> dict[str, Any]:
    """Shares of summaries that answer at least so many questions, with 95 % intervals, and how long summaries are.

    The first are of those that could be read by the judge, the others of all.
    """
    rights = [summary.right for summary in summaries if summary.right is not None]
    numbers: dict[str, Any] = {}
    for level in levels:
        hits = sum(right >= level for right in rights)
        low, high = wilson(hits, len(rights)) if rights else (None, None)
        name = f"at_least_{level}"
        numbers |= {name: hits / len(rights) if rights else None, f"{name}_low": low, f"{name}_high": high}
    numbers |= {"compression_median": median(summary.compression for summary in summaries)}
    numbers |= {"compression_mean": fmean(summary.compression for summary in summaries)}
    shares = [summary.right / summary.questions for summary in summaries if summary.right is not None]
    if shares:
        low, high = of_shares(shares, seed)
        numbers |= {"right": fmean(shares), "right_low": low, "right_high": high}
    numbers |= {"words": fmean(summary.words for summary in summaries)}
    numbers |= {"invalid_characters": fmean(has_invalid_characters(summary.text) for summary in summaries)}
    return numbers | {"too_long": fmean(summary.is_too_long for summary in summaries)}


def compare(own: Summary, other: Summary, preference: str, limits: PreferenceLimits) -> PairOutcome:
    """Which summary of one article is better, by one of ft.preferences. An empty one loses to any other.

    A pair that no judge could read has no outcome, and one of different lengths none that controls for length.
    """
    lengths = (own.words, other.words)
    if own.right is None or other.right is None:
        return PairOutcome(None, "unscored", lengths)
    if preference == "length_controlled" and not of_like_length(*lengths):
        return PairOutcome(None, "length", lengths)
    if (own.words == 0) != (other.words == 0):
        return PairOutcome("win" if own.words else "loss", "empty", lengths)
    sign = PREFERENCES[preference](RatedAnswer(own.right, own.words), RatedAnswer(other.right, other.words), limits)
    return PairOutcome("win" if sign > 0 else "loss" if sign < 0 else "tie", "", lengths)


def win_rates(
    own: Sequence[Summary], other: Sequence[Summary], preference: str, limits: PreferenceLimits, seed: int
) -> dict[str, Any]:
    """Win rate (wins and half of the ties) by the preference, with its 95 % interval by article, and beside it the one
    among summaries of similar length by score alone, since the preference itself may pay for being short."""
    pairs = [compare(mine, theirs, preference, limits) for mine, theirs in zip(own, other, strict=True)]
    controlled = [compare(mine, theirs, "length_controlled", limits) for mine, theirs in zip(own, other, strict=True)]
    numbers = rate(pairs, seed)
    of_like = {name.replace("win_rate", "length_controlled_win_rate"): v for name, v in rate(controlled, seed).items()}
    of_like = {name: value for name, value in of_like.items() if "win_rate" in name}
    return numbers | of_like | {"length_controlled_pairs": sum(pair.outcome is not None for pair in controlled)}
