"""Preference functions on hand-worked pairs: (score, words) of two answers."""

from __future__ import annotations

import itertools

import pytest

from ft.preferences import PREFERENCES, PreferenceLimits, RatedAnswer

LIMITS = PreferenceLimits()
Pair = tuple[float, int]


def preferred(name: str, first: Pair, second: Pair, limits: PreferenceLimits = LIMITS) -> int:
    return PREFERENCES[name](RatedAnswer(*first), RatedAnswer(*second), limits)


@pytest.mark.parametrize(
    ("first", "second", "by_variant"),
    [  # text, figure, code, evaluation
        ((4, 50), (5, 60), (1, 1, 1, 1)),  # both good: the shorter
        ((2, 50), (5, 60), (-1, -1, -1, -1)),  # one is not: the higher score
        ((1, 20), (2, 40), (-1, -1, -1, -1)),
        ((2, 30), (2, 40), (0, 1, 0, 1)),  # equal below the threshold
        ((4, 50), (4, 52), (0, 0, 0, 1)),  # too little difference in words
        ((3, 50), (5, 60), (-1, 1, 1, 1)),  # at the threshold: not yet above it
        ((3, 50), (3, 60), (0, 1, 1, 1)),
        ((4, 50), (4, 50), (0, 0, 0, 0)),
    ],
)
def test_the_documents_four_variants_on_hand_worked_pairs(first: Pair, second: Pair, by_variant: tuple[int, ...]):
    assert tuple(preferred(name, first, second) for name in ("text", "figure", "code", "evaluation")) == by_variant


def test_a_margin_is_of_any_score_and_blind_for_length():
    limits = PreferenceLimits(margin=0.5)
    assert preferred("margin", (0.9, 500), (0.4, 1), limits) == 1
    assert preferred("margin", (0.8, 500), (0.4, 1), limits) == 0


def test_a_length_controlled_preference_is_among_answers_of_like_length():
    assert preferred("length_controlled", (5, 100), (2, 90)) == 1
    assert preferred("length_controlled", (5, 100), (2, 89)) == 0


@pytest.mark.parametrize("name", PREFERENCES)
def test_turning_a_pair_round_turns_the_preference_round(name: str):
    answers = [*itertools.product(range(6), (5, 7, 8, 60, 64))]
    for first, second in itertools.product(answers, answers):
        assert preferred(name, first, second) == -preferred(name, second, first)
