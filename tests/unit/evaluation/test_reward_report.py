"""Every number of a report card, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from ft.evaluation.calibration import (
    by_quality,
    calibration_error,
    histogram,
    log_loss,
    pearson,
    reliability,
    spearman,
    unsafe_detection,
)
from ft.evaluation.reward_report import LONGER, ReportCard, ScoredAnswer, ScoredPair, accuracy
from ft.stages.report_card import CardOptions, show


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def pair(ahead: float, rating: int | None = None, axis: str | None = None, other: float = 0.0, **keys) -> ScoredPair:
    """A pair whose chosen answer is `ahead` by the model m and `other` by the model n; lengths in tokens."""
    tokens, safe, gold = keys.get("tokens", (5, 5)), keys.get("safe", (None, None)), keys.get("gold", (None, None))
    sides = [
        ScoredAnswer({"m": score, "n": second}, count, 10 * count, label, quality)
        for score, second, count, label, quality in zip((ahead, 0.0), (other, 0.0), tokens, safe, gold, strict=True)
    ]
    return ScoredPair(rating, axis, *sides)


def card(pairs: list[ScoredPair], *models: str) -> ReportCard:
    return ReportCard(pairs, models or ("m",), [0.5, 0.15])


# Accuracy


def test_accuracy_counts_a_tie_as_half_and_says_what_it_would_be_as_wrong():
    found = accuracy([1.0, 0.5, -2.0, 0.0])
    assert (found["pairs"], found["ties"], found["accuracy"], found["strict"]) == (4, 1, 0.625, 0.5)
    assert (round(found["low"], 3), round(found["high"], 3)) == (0.219, 0.908)


def test_the_grid_has_a_row_an_axis_and_a_column_a_rating():
    pairs = [pair(1, 1, "helpful"), pair(1, 1, "helpful"), pair(-1, 1, "safety"), pair(2, 3, "safety")]
    grid = card(pairs).grid()["m"]
    shares = {axis: {column: (c["accuracy"], c["pairs"]) for column, c in row.items()} for axis, row in grid.items()}
    assert shares == {
        "helpful": {"significantly": (1.0, 2), "average": (1.0, 2)},
        "safety": {"significantly": (0.0, 1), "slightly": (1.0, 1), "average": (0.5, 2)},
        "all": {"significantly": (2 / 3, 3), "slightly": (1.0, 1), "average": (0.75, 4)},
    }


def test_pairs_without_rating_or_axis_stand_in_a_column_and_a_row_of_their_own():
    pairs = [pair(1, 1, "helpful"), pair(-1, None, "helpful"), pair(1)]
    grid = card(pairs).grid()["m"]
    assert list(grid) == ["helpful", "none", "all"]
    assert grid["all"]["none"]["pairs"] == 2
    assert grid["helpful"]["none"]["accuracy"] == 0.0
    assert grid["none"]["none"]["accuracy"] == 1.0


def test_the_baseline_prefers_the_longer_answer():
    pairs = [pair(1, tokens=(9, 2)), pair(1, tokens=(2, 9)), pair(1, tokens=(4, 4)), pair(1, tokens=(5, 4))]
    assert card(pairs).grid()[LONGER]["none"]["average"]["accuracy"] == 0.625
    assert card(pairs).numbers()["longer_wins"] == 0.625
    assert card(pairs).numbers()["over_longer"] == 0.375


@pytest.mark.parametrize(
    ("aheads", "falls"),
    [((1, 1, 1, -1), True), ((1, -1, 1, -1), False), ((1, 1, 1, 1), True)],
)
def test_monotone_tells_whether_accuracy_falls_with_the_rating(aheads, falls):
    pairs = [pair(ahead, rating) for rating, ahead in enumerate(aheads, 1)]
    assert card(pairs).monotone("m") == {"none": falls}
    assert card(pairs).numbers()["monotone"] is falls


def test_one_rating_is_no_fall_and_no_rise():
    assert "monotone" not in card([pair(1, 2), pair(1, None)]).numbers()


def test_accuracy_is_told_apart_by_the_labels_of_both_answers():
    pairs = [pair(1, safe=(True, False)), pair(-1, safe=(True, True)), pair(1, safe=(True, True)), pair(1)]
    found = card(pairs).by_safety("m")
    assert {name: (cell["accuracy"], cell["pairs"]) for name, cell in found.items()} == {
        "safe_safe": (0.5, 2),
        "safe_unsafe": (1.0, 1),
    }


# Calibration


def test_log_loss_is_that_of_the_ranking_loss_without_margin():
    assert log_loss([1.0]) == pytest.approx(0.313262, abs=1e-6)  # as the reward stage has it at margin 0
    assert log_loss([0.0, 0.0]) == pytest.approx(math.log(2))
    assert log_loss([-800.0]) == 800.0


def test_reliability_sets_how_often_scores_are_right_beside_how_sure_they_are():
    differences = [logit(0.76), logit(0.78), -logit(0.77), -logit(0.77), logit(0.97), 0.0]
    bins = reliability(differences)
    assert [(line["from"], line["to"], line["pairs"]) for line in bins] == [
        (0.5, 0.55, 1),
        (0.75, 0.8, 4),
        (0.95, 1, 1),
    ]
    assert [round(line["predicted"], 6) for line in bins] == [0.5, 0.77, 0.97]
    assert [line["observed"] for line in bins] == [0.5, 0.5, 1.0]
    assert calibration_error(bins) == pytest.approx((0 + 4 * 0.27 + 0.03) / 6)


def test_scores_as_sure_as_they_are_right_have_no_calibration_error():
    differences = [logit(0.8 + 1e-9)] * 8 + [-logit(0.8 + 1e-9)] * 2
    assert calibration_error(reliability(differences)) == pytest.approx(0, abs=1e-6)


def test_a_difference_without_bounds_is_in_the_last_bin():
    assert reliability([1e6])[0]["to"] == 1.0


# Quality, length


def test_the_mean_score_is_told_by_quality_with_its_error():
    assert by_quality([1.0, 3.0, 5.0], [2, 2, 7]) == [
        {"quality": 2.0, "answers": 2, "score": 2.0, "error": 1.0},
        {"quality": 7.0, "answers": 1, "score": 5.0, "error": None},
    ]


def test_many_qualities_are_taken_in_tenths():
    found = by_quality([float(n) for n in range(40)], [n / 7 for n in range(40)])
    assert [line["answers"] for line in found] == [4] * 10
    assert [line["score"] for line in found][:2] == [1.5, 5.5]


def test_quality_is_told_by_axis_and_only_of_answers_that_have_one():
    pairs = [pair(2, axis="helpful", gold=(5, 1)), pair(9, axis="safety")]
    found = card(pairs).quality("m")
    assert list(found) == ["helpful", "all"]
    assert [(level["quality"], level["score"]) for level in found["helpful"]["levels"]] == [(1.0, 0.0), (5.0, 2.0)]
    assert found["helpful"]["spearman"] == pytest.approx(1.0)


def test_pearson_and_spearman():
    assert pearson([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 2, 3, 4], [1, 100, 1000, 10000]) == pytest.approx(1.0)
    assert spearman([1, 1, 2], [3, 4, 5]) == pytest.approx(0.866025, abs=1e-6)  # ranks 1.5, 1.5, 3
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / 22.5**0.5)  # ranks 1.5, 1.5, 3, 4
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert pearson([1], [2]) is None


def test_length_is_set_beside_score_over_answers_and_within_pairs():
    pairs = [pair(1, tokens=(2, 1)), pair(2, tokens=(3, 1)), pair(3, tokens=(5, 2))]
    found = card(pairs).length("m")["tokens"]
    assert found["pairs"]["pearson"] == pytest.approx(1.0)
    assert found["answers"]["pearson"] == pytest.approx(9 / 90.6666667**0.5)  # (1,2,3,0,0,0) and (2,3,5,1,1,2)
    assert found["longer_wins"]["accuracy"] == 1.0
    assert card(pairs).numbers()["length_correlation"] == pytest.approx(1.0)


# Safety


def test_precision_and_recall_of_unsafe_below_a_threshold():
    scores, safe = [logit(0.4), logit(0.1), logit(0.05), logit(0.9), logit(0.8)], [True, False, False, False, True]
    assert unsafe_detection(scores, safe, 0.5) == {
        **{"answers": 5, "unsafe": 3, "found": 3, "right": 2},
        **{"precision": 2 / 3, "recall": 2 / 3},
    }
    assert unsafe_detection(scores, safe, 0.15)["precision"] == 1.0
    assert unsafe_detection(scores, safe, 0.01)["precision"] is None
    assert unsafe_detection([0.0], [True], 0.5)["recall"] is None


def test_unsafe_is_told_by_side_and_unlabelled_answers_are_left_out():
    pairs = [pair(2, safe=(True, False)), pair(-3, safe=(False, None))]
    found = card(pairs).unsafe("m")
    assert list(found) == ["0.5", "0.15"]
    assert (found["0.5"]["chosen"]["recall"], found["0.5"]["rejected"]["recall"]) == (1.0, 0.0)  # sigmoid(0) is 0.5
    assert found["0.5"]["all"]["answers"] == 3
    assert card(pairs).numbers()["unsafe_recall_0.15"] == 0.5


# Two models


def test_disagreement_is_a_different_order_by_axis_and_rating():
    pairs = [
        pair(1, 1, "helpful", other=-1),
        pair(1, 2, "helpful", other=2),
        pair(-1, 1, "safety", other=-2),
        pair(1, 1, "safety", other=0),
    ]
    grid = card(pairs, "m", "n").disagreement()["grid"]
    shares = {axis: {column: cell["share"] for column, cell in row.items()} for axis, row in grid.items()}
    assert shares == {
        "helpful": {"significantly": 1.0, "better": 0.0, "average": 0.5},
        "safety": {"significantly": 0.0, "average": 0.0},
        "all": {"significantly": 1 / 3, "better": 0.0, "average": 0.25},
    }
    assert grid["all"]["average"]["ties"] == 1
    assert card(pairs, "m", "n").numbers()["disagree"] == 0.25


def test_the_second_models_numbers_have_its_prefix():
    numbers = card([pair(1, 1, other=-1), pair(1, 2, other=1)], "m", "n").numbers()
    assert (numbers["accuracy"], numbers["accuracy_1"], numbers["accuracy_2"]) == (1.0, 1.0, 1.0)
    assert (numbers["other_accuracy"], numbers["other_accuracy_1"], numbers["other_accuracy_2"]) == (0.5, 0.0, 1.0)


def test_numbers_name_axis_and_rating_for_require():
    pairs = [pair(1, 1, "helpful"), pair(-1, 1, "safety"), pair(1, None, "safety")]
    numbers = card(pairs).numbers()
    named = {name: value for name, value in numbers.items() if name.startswith(("accuracy_he", "accuracy_s"))}
    assert named == {
        **{"accuracy_helpful": 1.0, "accuracy_helpful_1": 1.0, "accuracy_strict": 2 / 3},
        **{"accuracy_safety": 0.5, "accuracy_safety_1": 0.0, "accuracy_safety_none": 1.0},
    }


# Shown


def test_the_table_has_a_row_a_model_and_axis_and_the_baseline(capfd):
    pairs = [pair(1, 1, "helpful", tokens=(3, 3)), pair(-1, 4, "helpful"), pair(1, None, "safety", safe=(True, False))]
    show(card(pairs))
    shown = [" ".join(line.split()) for line in capfd.readouterr().err.splitlines()]
    assert shown[:7] == [
        "pair accuracy, % axis pairs significantly better slightly negligibly none average",
        "m helpful 2 100.0 (21–100) · · 0.0 (0–79) · 50.0 (9–91)",
        "m safety 1 · · · · 100.0 (21–100) 100.0 (21–100)",
        "m all 3 100.0 (21–100) · · 0.0 (0–79) 100.0 (21–100) 66.7 (21–94)",
        "longer answer helpful 2 50.0 (5–95) · · 50.0 (5–95) · 50.0 (9–91)",
        "longer answer safety 1 · · · · 50.0 (5–95) 50.0 (5–95)",
        "longer answer all 3 50.0 (5–95) · · 50.0 (5–95) 50.0 (5–95) 50.0 (13–87)",
    ]
    assert "unsafe below 0.5: recall 0%" in " ".join(shown)


# Histograms, options


def test_histograms_share_their_bins():
    told = histogram({"chosen": [0.0, 3.0], "rejected": [1.0, 1.2]}, bins=3)
    assert told == {"edges": [0.0, 1.0, 2.0, 3.0], "chosen": [1, 0, 1], "rejected": [0, 2, 0]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"thresholds": [15]}, r"thresholds are \[15\]; each is a probability, between 0 and 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        CardOptions(**options)
