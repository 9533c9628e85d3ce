"""Which of K answers is kept and what K is worth: literal numbers, and every subset counted by hand."""

from __future__ import annotations

from itertools import combinations, pairwise
from statistics import fmean, median

import pytest

from ft.data.selection import best, curve, hottest, of_best, pair, sigmoid


def test_the_sigmoid_overflows_at_neither_end():
    assert [round(sigmoid(x), 4) for x in (-1000, -1.8153, 0, 2.1972, 1000)] == [0, 0.14, 0.5, 0.9, 1]


def test_the_first_of_the_best_is_kept():
    assert best([0.1, 0.7, 0.3, 0.7]) == 1


def test_a_pair_is_the_best_and_the_worst():
    assert pair([0.5, 0.1, 0.9, 0.1]) == (2, 1)


def test_answers_that_are_all_worth_the_same_are_no_pair():
    assert pair([0.5, 0.5, 0.5]) is None


def test_the_curve_is_the_mean_over_all_subsets():
    scored = [[0.3, 0.9, 0.1, 0.5, 0.4], [0.2, 0.2, 0.8, 0.6, 0.0]]
    for point in curve(scored):
        subsets = [subset for scores in scored for subset in combinations(scores, point.answers)]
        assert point.best == pytest.approx(fmean(map(max, subsets)))
        assert point.median == pytest.approx(fmean(map(median, subsets)))


def test_one_answer_is_worth_the_mean_and_all_answers_the_best():
    points = curve([[1.0, 2.0, 3.0, 6.0]])
    assert (points[0].best, points[0].median) == (3.0, 3.0)
    assert (points[-1].answers, points[-1].best, points[-1].median) == (4, 6.0, 2.5)


def test_the_best_never_falls_as_more_answers_are_drawn():
    scored = [[(7 * i * k) % 13 / 13 for k in range(1, 41)] for i in range(1, 9)]
    points = [point.best for point in curve(scored)]
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(points))


def test_what_the_best_by_one_measure_is_worth_by_another_is_the_mean_over_all_subsets():
    scores, values = [0.3, 0.9, 0.1, 0.5], [1.0, 0.0, 1.0, 0.5]
    for n, found in enumerate(of_best([scores], [values]), 1):
        tops = [max(subset)[1] for subset in combinations(list(zip(scores, values, strict=True)), n)]
        assert found == pytest.approx(fmean(tops))
    assert of_best([[0.5, 0.5]], [[1.0, 0.0]])[-1] == 1.0  # the first of equals is the one that is taken
    assert of_best([scores], [scores]) == pytest.approx([point.best for point in curve([scores])])


def test_the_order_of_answers_does_not_change_the_curve():
    assert curve([[0.1, 0.9, 0.4]]) == curve([[0.9, 0.4, 0.1]])


def test_the_temperature_worth_most_is_taken_and_the_lowest_of_equals():
    worth = {0.6: 0.5, 0.8: 0.9, 1.0: 0.9, 1.2: 0.1}
    assert hottest(worth.__getitem__, [1.2, 1.0, 0.8, 0.6]) == 0.8
