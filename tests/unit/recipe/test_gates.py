"""A policy that learns to please a reward model which nothing has tested: said once, where it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.recipe import Recipe

REWARD = "  - {kind: reward, name: judge, init: $sft, data: [rows.jsonl], train: {max_length: 64}}\n"
LEARN = (
    "  - {kind: KIND, init: $sft, inputs: {helpful: $judge, safety: $judge}, data: [rows.jsonl],"
    " train: {max_completion_length: 8}}\n"
)
CARD = "  - {kind: report-card, init: $judge, data: [rows.jsonl], require: {accuracy: 0.65}}\n"


@pytest.mark.parametrize("kind", ["ppo", "rloo", "grpo"])
def test_a_reward_model_that_nothing_has_tested_is_told_once_with_what_to_write(recipe: Callable[..., Recipe], kind):
    assert recipe(GOOD + REWARD + LEARN.replace("KIND", kind)).notices == (
        f"x.yaml:7: '{kind}' learns to please '$judge', which no report card with `require:` has tested. Write above"
        " it: {kind: report-card, init: $judge, data: [held-out pairs], require: {accuracy: 0.65}}.",
    )


@pytest.mark.parametrize("above", [CARD.replace(", require: {accuracy: 0.65}", ""), ""], ids=["no require", "below"])
def test_a_report_card_counts_that_can_stop_the_chain_in_time(recipe: Callable[..., Recipe], above):
    below = "" if above else CARD
    assert len(recipe(GOOD + REWARD + above + LEARN.replace("KIND", "ppo") + below).notices) == 1


def test_a_tested_reward_model_needs_no_word(recipe: Callable[..., Recipe]):
    assert recipe(GOOD + REWARD + CARD + LEARN.replace("KIND", "ppo")).notices == ()


def test_functions_and_a_critic_need_no_report_card(recipe: Callable[..., Recipe]):
    learn = LEARN.replace("KIND", "ppo").replace("helpful: $judge, safety: $judge", "critic: $judge")
    assert recipe(GOOD + REWARD + learn).notices == ()
