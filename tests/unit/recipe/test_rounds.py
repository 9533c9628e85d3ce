"""`rounds:` makes ordinary stages: which names point where, what is refused, and where it was written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.recipe.conftest import HEAD, SFT

from ft.recipe import Recipe
from ft.recipe.rounds import Until
from ft.results.store import plan

Messages = Callable[..., str]
Read = Callable[..., Recipe]

SAMPLE = "data: [{path: rows.jsonl, format: prompt}%s], sample: {rewards: {quality: 1.0}}"
TRAIN = "train: {max_length: 64, max_steps: 2}"
ROUND = f"""  - rounds:
      times: 3
      init: {{policy: $sft}}
      stages:
        - {{kind: sample, name: answers, init: $policy, {SAMPLE % ", {path: $answers, pool: last}"}}}
        - {{kind: sft, name: policy, data: [{{path: $answers, pool: all, weight: 2.0}}, rows.jsonl], {TRAIN}}}
        - {{kind: evaluate, name: quality, init: $policy, inputs: {{baseline: $policy}}, data: [rows.jsonl],
           evaluate: {{reward: quality}}}}
"""
GOOD = HEAD + SFT + ROUND
AFTER = "  - {kind: evaluate, name: final, init: $policy, data: [rows.jsonl], evaluate: {reward: quality}}\n"


def paths(recipe: Recipe, stage: str) -> list[str]:
    return [source["path"] for source in recipe.stage(stage).data]


def test_rounds_become_ordinary_stages_in_order(recipe: Read):
    names = [stage.name for stage in recipe(GOOD + AFTER).stages]
    rounds = [f"{name}-{number}" for number in (1, 2, 3) for name in ("answers", "policy", "quality")]
    assert names == ["sft", *rounds, "final"]


def test_a_name_means_this_round_where_it_stands_above_and_else_the_round_before(recipe: Read):
    made = recipe(GOOD)
    assert [made.stage(f"answers-{n}").init for n in (1, 2, 3)] == ["sft", "policy-1", "policy-2"]
    assert [made.stage(f"quality-{n}").init for n in (1, 2, 3)] == ["policy-1", "policy-2", "policy-3"]
    assert made.stage("quality-2").inputs == {"baseline": "policy-2"}


def test_behind_the_rounds_a_name_means_the_last_round(recipe: Read):
    assert recipe(GOOD + AFTER).stage("final").init == "policy-3"


def test_a_pool_of_all_takes_the_rows_of_every_round_so_far_and_last_the_newest(recipe: Read):
    made = recipe(GOOD)
    assert paths(made, "policy-3") == ["$answers-1", "$answers-2", "$answers-3", "rows.jsonl"]
    assert [source["weight"] for source in made.stage("policy-2").data[:2]] == [2.0, 2.0]
    assert paths(made, "answers-1") == ["rows.jsonl"]  # before round 1 there is no earlier answer
    assert paths(made, "answers-3") == ["rows.jsonl", "$answers-2"]


def test_a_stage_behind_the_rounds_can_take_the_rows_of_all(recipe: Read):
    made = recipe(GOOD + f"  - {{kind: sft, name: student, data: [{{path: $answers, pool: all}}], {TRAIN}}}\n")
    assert paths(made, "student") == ["$answers-1", "$answers-2", "$answers-3"]


def test_the_same_recipe_written_by_hand_has_the_same_results(recipe: Read, tmp_path: Path):
    """Fingerprint by fingerprint: rounds are a way of writing, and decide nothing themselves."""
    answers = [SAMPLE % "", SAMPLE % ", {path: $answers-1}"]
    pools = ["{path: $answers-1, weight: 2.0}", "{path: $answers-1, weight: 2.0}, {path: $answers-2, weight: 2.0}"]
    by_hand = HEAD + SFT
    for number, policy in ((1, "sft"), (2, "policy-1")):
        by_hand += f"  - {{kind: sample, name: answers-{number}, init: ${policy}, {answers[number - 1]}}}\n"
        by_hand += f"  - {{kind: sft, name: policy-{number}, data: [{pools[number - 1]}, rows.jsonl], {TRAIN}}}\n"
        by_hand += (
            f"  - {{kind: evaluate, name: quality-{number}, init: $policy-{number}, "
            f"inputs: {{baseline: $policy-{number}}}, data: [rows.jsonl], evaluate: {{reward: quality}}}}\n"
        )
    by_hand += AFTER.replace("$policy", "$policy-2")
    unrolled = recipe(GOOD.replace("times: 3", "times: 2") + AFTER)
    fingerprints = [{p.name: p.fingerprint for p in plan(one, tmp_path / "runs").stages} for one in (unrolled,)]
    fingerprints += [{p.name: p.fingerprint for p in plan(recipe(by_hand), tmp_path / "runs").stages}]
    assert fingerprints[0] == fingerprints[1]


def test_set_reaches_rounds_and_the_stages_in_them(recipe: Read):
    made = recipe(GOOD, ["rounds.times=2", "policy.train.max_steps=7"])
    assert [made.stage(f"policy-{n}").blocks["train"]["max_steps"] for n in (1, 2)] == [7, 7]
    assert len(made.stages) == 1 + 2 * 3


@pytest.mark.usefixtures("folder")
def test_a_fork_changes_rounds_and_their_stages_key_by_key(recipe: Read):
    Path("parent.yaml").write_text(GOOD, encoding="utf-8")
    fork = "extends: parent.yaml\nstages:\n  - rounds: {times: 1}\n  - {name: policy, train: {max_steps: 9}}\n"
    made = recipe(fork)
    assert [stage.name for stage in made.stages] == ["sft", "answers-1", "policy-1", "quality-1"]
    assert made.stage("policy-1").blocks["train"] == {"max_length": 64, "max_steps": 9}


def test_what_is_wrong_in_a_round_is_reported_once_where_it_is_written(messages_of: Messages):
    """Not once for each round."""
    assert messages_of(GOOD.replace("max_steps: 2", "max_stpes: 2")).count("max_stpes") == 1
    line = next(n for n, text in enumerate(GOOD.splitlines(), 1) if "name: policy" in text)
    assert messages_of(GOOD.replace("max_steps: 2", "max_stpes: 2")).startswith(f"x.yaml:{line}:")


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (("times: 3", "times: 0"), "times: 0", "at least 1"),
        (("times: 3", "tiems: 3"), "tiems", "'tiems'"),
        (("      init: {policy: $sft}\n", ""), "name: answers", "nothing is called '$policy'"),
        (("init: {policy: $sft}", "init: {polcy: $sft}"), "polcy", "Did you mean 'policy'"),
        (("init: {policy: $sft}", "init: {policy: $sft, quality: $sft}"), "init: {policy", "'$quality'"),
        (("init: {policy: $sft}", "init: {policy: sft}"), "init: {policy", "$name"),
        (("pool: all, ", ""), "name: policy", "pool: all"),
        (("pool: all", "pool: some"), "name: policy", "all or last"),
        (("{path: $answers, pool: all, weight: 2.0}", "{path: rows.jsonl, pool: all}"), "name: policy", "Remove"),
        (("{path: $answers, pool: all, weight: 2.0}", "{path: $sft, pool: all}"), "name: policy", "made once"),
        (("kind: evaluate, name: quality", "rounds: {times: 2, stages: []}"), "rounds: {times: 2", "inside rounds"),
        (("name: quality", "name: policy"), "stages:", "two stages of a round"),
        (("times: 3", "times: 3\n      until: {metric: quality, at_least: 1}"), "until", "stage.metric"),
        (("times: 3", "times: 3\n      until: {metric: qualty.reward, at_least: 1}"), "until", "'qualty'"),
        (("times: 3", "times: 3\n      until: {metric: quality.reward}"), "until", "write one of"),
        (("times: 3", "times: 3\n      until: {metric: quality.a, at_least: 1, min_gain: 1}"), "until", "write one of"),
    ],
)
def test_rounds_that_cannot_be_made_are_refused_where_they_are_written(
    change: tuple[str, str], place: str, words: str, messages_of: Messages
):
    text = GOOD.replace(*change)
    message = messages_of(text)
    first = 2 if place == "stages:" else 0  # the recipe's own `stages:` stands further up
    lines = [n for n, line in enumerate(text.splitlines(), 1) if place in line and n > first]
    assert message.startswith(f"x.yaml:{lines[0]}:")
    assert words in message


def test_a_name_that_clashes_after_unrolling_is_refused(messages_of: Messages):
    message = messages_of(GOOD.replace("kind: sft\n", "kind: sft\n    name: policy-2\n").replace("$sft", "$policy-2"))
    assert "two stages are called 'policy-2'" in message


def test_a_name_of_a_round_that_a_stage_outside_has_too_is_refused(messages_of: Messages):
    """Behind the rounds `$policy` could be either."""
    message = messages_of(GOOD.replace("kind: sft\n", "kind: sft\n    name: policy\n").replace("$sft", "$policy"))
    assert "'policy' is the name of a stage outside the rounds too" in message


def test_a_key_beside_rounds_is_refused(messages_of: Messages):
    text = HEAD + SFT + "  - init: $sft\n    rounds: {times: 1, stages: []}\n"
    assert messages_of(text).startswith("x.yaml:6: 'init' stands beside rounds")


def test_one_round_of_several_is_not_named_where_it_may_not_be_made(messages_of: Messages, recipe: Read):
    after, until = AFTER.replace("$policy", "$policy-2"), "      until: {metric: quality.reward, min_gain: 0.1}\n"
    assert recipe(GOOD + after).stage("final").init == "policy-2"
    message = messages_of(GOOD.replace("      init", until + "      init") + after)
    assert "'$policy-2' may not be needed" in message
    assert "Write `$policy`" in message


@pytest.mark.parametrize(
    ("rule", "values", "enough"),
    [
        ({"at_least": 0.9}, [0.2, 0.9], True),
        ({"at_least": 0.9}, [0.95, 0.89], False),
        ({"at_most": 0.1}, [0.1], True),
        ({"at_most": 0.1}, [math.nan], False),
        ({"min_gain": 0.1}, [0.5], False),  # the first round has nothing to gain on
        ({"min_gain": 0.1}, [0.5, 0.59], True),
        ({"min_gain": 0.1}, [0.5, 0.61], False),
        ({"min_gain": 0.1}, [0.5, math.nan], False),
        ({"min_gain": 0.1, "lower_is_better": True}, [0.5, 0.3], False),
        ({"min_gain": 0.1, "lower_is_better": True}, [0.5, 0.45], True),
    ],
)
def test_the_stop_rule(rule: dict[str, float], values: list[float], enough: bool):
    assert bool(Until("quality.reward", **rule).enough([{"reward": value} for value in values])) == enough


def test_a_gain_is_measured_in_its_own_standard_errors():
    """Half-widths of 0.0196 and 0.0147 at 95 % are errors of 0.01 and 0.0075, together 0.0125."""
    until = Until("quality.reward", gain_standard_errors=1.0)
    before = {"reward": 0.5, "reward_low": 0.4804, "reward_high": 0.5196}

    def after(value: float) -> dict[str, float]:
        return {"reward": value, "reward_low": value - 0.0147, "reward_high": value + 0.0147}

    assert until.enough([before, after(0.5124)])
    assert not until.enough([before, after(0.5126)])
