"""The numbers of an evaluation of summaries, worked by hand on four articles."""

from __future__ import annotations

import pytest

from ft.evaluation.summaries import Summary, compare, has_invalid_characters, quality, why_invalid, win_rates
from ft.preferences import PreferenceLimits

LIMITS = PreferenceLimits()
ARTICLE = "word " * 100


def summary(right: int | None, words: int, extra: str = "") -> Summary:
    return Summary(" ".join(["word"] * words) + extra, ARTICLE, right, 5)


OWN = [summary(4, 10), summary(2, 10), summary(5, 20, "ж"), summary(3, 120)]
OTHER = [summary(5, 20), summary(3, 10), summary(5, 20), summary(2, 40)]


def test_four_summaries_by_hand():
    numbers = quality(OWN, [3, 4], seed=1)
    assert (numbers["at_least_3"], numbers["at_least_4"]) == (0.75, 0.5)
    assert numbers["compression_median"] == pytest.approx(0.15)
    assert numbers["compression_mean"] == pytest.approx(0.4)
    assert numbers["invalid_characters"] == numbers["too_long"] == 0.25
    assert numbers["right"] == pytest.approx(14 / 20)
    assert numbers["at_least_3_low"] < 0.75 < numbers["at_least_3_high"]


def test_win_rate_of_four_pairs_by_hand():
    """Both good, shorter: won. Worse score: lost. The same: tied. 3 against 2 below the threshold: won."""
    numbers = win_rates(OWN, OTHER, "evaluation", LIMITS, seed=1)
    assert (numbers["wins"], numbers["ties"], numbers["losses"]) == (2, 1, 1)
    assert numbers["win_rate"] == 0.625
    assert numbers["win_rate_low"] < 0.625 < numbers["win_rate_high"]
    # Of like length are the second pair, which is lost, and the third, which is tied.
    assert (numbers["length_controlled_win_rate"], numbers["length_controlled_pairs"]) == (0.25, 2)


def test_a_pair_that_the_judge_could_not_read_has_no_outcome_and_counts_nowhere():
    numbers = win_rates([*OWN, summary(None, 10)], [*OTHER, summary(5, 10)], "evaluation", LIMITS, seed=1)
    assert numbers["win_rate"] == 0.625
    assert quality([*OWN, summary(None, 10)], [3], seed=1)["at_least_3"] == 0.75


def test_an_empty_summary_wins_nothing_by_being_short():
    assert compare(summary(0, 0), summary(0, 10), "evaluation", LIMITS).outcome == "loss"
    assert compare(summary(0, 0), summary(0, 0), "evaluation", LIMITS).outcome == "tie"


@pytest.mark.parametrize(("text", "invalid"), [("café “naïve” – 5 €…", False), ("日本", True), ("a\u200bb", True)])
def test_accents_and_typography_are_valid_other_scripts_are_not(text: str, invalid: bool):
    assert has_invalid_characters(text) is invalid


def test_every_reason_for_leaving_a_summary_out():
    texts = ("a b c d", "a b c d e", "w " * 199, "w " * 200, "a b c d ж")
    found = [why_invalid(text, 5, 200) for text in texts]
    assert found == ["too_few_words", "", "", "too_many_words", "characters"]
