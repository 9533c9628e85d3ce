"""What verdicts add up to, against numbers worked by hand; a comparison turned round is its own mirror."""

from __future__ import annotations

from itertools import product

import pytest

from ft.evaluation.judge_prompt import VERDICTS
from ft.evaluation.statistics import bootstrap, mean, of_shares, wilson
from ft.evaluation.win_rate import PairOutcome, by_both_orders, by_length, by_scores, groups, numbers

FLIP = by_both_orders("first", "first", (5, 5))
WIN = by_both_orders("first", "second", (10, 5))
LOSS = by_both_orders("second", "first", (10, 5))
TIE = by_both_orders("tie", "tie", (5, 5))
TURNED = {"win": "loss", "loss": "win", "tie": "tie", None: None}


def turned(pair: PairOutcome) -> PairOutcome:
    """The same pair with the models changed round."""
    assert pair.verdicts
    return by_both_orders(pair.verdicts[1], pair.verdicts[0], pair.lengths[::-1])


@pytest.mark.parametrize(
    ("ours_first", "other_first", "outcome", "why"),
    [
        ("first", "second", "win", ""),
        ("second", "first", "loss", ""),
        ("tie", "tie", "tie", ""),
        ("first", "first", "tie", "flip"),
        ("second", "second", "tie", "flip"),
        ("first", "tie", "tie", "wavers"),
        ("tie", "first", "tie", "wavers"),
        (None, "second", None, "unparsed"),
        ("first", None, None, "unparsed"),
    ],
)
def test_a_pair_is_won_in_both_orders_or_not_at_all(ours_first, other_first, outcome, why):
    found = by_both_orders(ours_first, other_first, (1, 1))
    assert (found.outcome, found.why) == (outcome, why)


def test_every_pair_of_verdicts_is_mirrored_when_the_models_change_places():
    for verdicts in product((*VERDICTS, None), repeat=2):
        pair = by_both_orders(*verdicts, (3, 7))
        assert turned(pair).outcome == TURNED[pair.outcome]
        assert (turned(pair).why, turned(pair).margin) == (pair.why, pair.margin)


def test_the_win_rate_is_wins_and_half_of_the_ties():
    found = numbers([WIN] * 5 + [FLIP] * 2 + [TIE] + [LOSS] * 2, seed=1)
    assert (found["wins"], found["ties"], found["losses"], found["pairs"]) == (5, 3, 2, 10)
    assert found["win_rate"] == 0.65
    assert (found["flips"], found["flip_rate"], found["consistency"]) == (2, 0.2, 0.8)
    assert found["first_preferred"] == 11 / 18  # 7 wins and losses name it once each, 2 flips twice; 18 name a place


def test_verdicts_that_cannot_be_read_count_for_neither():
    unparsed = by_both_orders("first", None, (1, 2))
    found = numbers([WIN, LOSS, LOSS, unparsed], seed=1)
    assert (found["pairs"], found["unparsed"], found["wins"], found["ties"], found["losses"]) == (4, 1, 1, 0, 2)
    assert found["win_rate"] == 1 / 3


def test_a_judge_that_always_says_first_flips_always_and_knows_nothing():
    found = numbers([FLIP] * 7, seed=1)
    assert (found["win_rate"], found["flip_rate"], found["consistency"]) == (0.5, 1.0, 0.0)
    assert (found["ties"], found["first_preferred"]) == (7, 1.0)


def test_a_comparison_turned_round_is_its_mirror():
    pairs = [WIN] * 9 + [FLIP] * 3 + [TIE] * 4 + [LOSS] * 5 + [by_both_orders("tie", None, (1, 9))]
    there, back = numbers(pairs, seed=3), numbers([turned(pair) for pair in pairs], seed=3)
    assert (there["wins"], there["ties"], there["losses"]) == (back["losses"], back["ties"], back["wins"])
    ends = [there["win_rate_low"], there["win_rate"], there["win_rate_high"]]
    mirrored = [1 - back["win_rate_high"], 1 - back["win_rate"], 1 - back["win_rate_low"]]
    assert mirrored == pytest.approx(ends, abs=1e-15)
    same = ("flips", "unparsed", "consistency", "first_preferred", "longer_wins", "longer_pairs", "like_length_pairs")
    assert {name: there[name] for name in same} == {name: back[name] for name in same}
    assert by_length(pairs, 3)["longer"]["wins"] == by_length([turned(pair) for pair in pairs], 3)["shorter"]["losses"]


def test_the_interval_is_the_bootstraps_over_prompts():
    """20 of 50 points: the normal interval is 0.4 ± 1.96 √(0.24 / 50), 0.264 to 0.536; draws move in steps of 0.02."""
    pairs = [by_scores(1, 0, (1, 1))] * 20 + [by_scores(0, 1, (1, 1))] * 30
    found = numbers(pairs, seed=1)
    assert (found["win_rate_low"], found["win_rate_high"]) == (
        pytest.approx(0.264, abs=0.02),
        pytest.approx(0.536, abs=0.02),
    )
    assert found == numbers(pairs, seed=1)


def test_pairs_that_came_out_alike_have_wilsons_interval():
    found = numbers([WIN] * 8, seed=1)
    assert (found["win_rate_low"], found["win_rate_high"]) == wilson(8, 8)


def test_length_bias_is_counted_over_decided_pairs_of_unlike_length():
    pairs = [
        by_scores(1, 0, (20, 10)),  # the longer one wins
        by_scores(0, 1, (20, 10)),  # the shorter one wins
        by_scores(0, 1, (10, 30)),  # the longer one wins
        by_scores(1, 0, (10, 10)),  # alike
        by_scores(0, 0, (90, 10)),  # a tie
        by_scores(1, 0, (30, 10)),  # the longer one wins
        by_scores(0, 1, (100, 91)),  # the shorter one wins, and they are of like length
    ]
    found = numbers(pairs, seed=1)
    assert (found["longer_wins"], found["longer_pairs"]) == (0.6, 5)
    assert (found["like_length_win_rate"], found["like_length_pairs"]) == (0.5, 2)
    assert (found["characters"], found["other_characters"]) == (280 / 7, 171 / 7)
    parts = by_length(pairs, 1)
    assert {name: (part["pairs"], part["win_rate"]) for name, part in parts.items()} == {
        "shorter": (1, 0.0),
        "like": (2, 0.5),
        "longer": (4, 0.625),
    }


def test_scores_near_each_other_tie_where_asked():
    assert by_scores(0.7, 0.6, (1, 1), tie=0.2).outcome == "tie"
    assert by_scores(0.5, 0.75, (1, 1)) == PairOutcome("loss", "", (1, 1), 0.25)


def test_values_of_a_column_are_counted_apart():
    found = groups([WIN, WIN, LOSS, TIE], ["fr", "en", "fr", "en"], seed=1)
    assert {name: (one["pairs"], one["win_rate"]) for name, one in found.items()} == {"fr": (2, 0.5), "en": (2, 0.75)}


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """Means of 40 draws from {0, ½, 1}: a 95 % interval by percentiles holds ½ in 90 to 98 % of 200 cases."""
    import random

    rng, held = random.Random(1), 0
    for _ in range(200):
        values = [[rng.choice((0.0, 0.5, 1.0))] for _ in range(40)]
        low, high = bootstrap(values, mean, seed=rng.randrange(2**31), draws=200)
        held += low <= 0.5 <= high
    assert 180 <= held <= 196


def test_the_ends_of_an_interval_are_those_of_its_mirror():
    values = [(7 * n % 31) / 31 + n / 1000 for n in range(30)]
    low, high = bootstrap([[value] for value in values], mean, seed=5)
    mirrored = bootstrap([[1 - value] for value in values], mean, seed=5)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_shares_of_right_and_wrong_have_wilsons_interval_and_others_are_bootstrapped():
    assert of_shares([1.0, 0.0, 1.0, 1.0], seed=1) == wilson(3, 4)
    assert of_shares([0.5] * 6, seed=1) == wilson(3, 6)
    low, high = of_shares([0.5, 0.25, 0.75, 0.5], seed=1)
    assert 0.25 <= low < 0.5 < high <= 0.75
