"""The stop rule of rounds: decided by finished results alone, the same way in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ft.errors import UserError
from ft.files import write_json
from ft.recipe import read
from ft.results.store import Plan, plan
from ft.stages import STAGES

TEXT = """name: rounds
model: hub/name
stages:
  - {kind: sft, data: [rows.jsonl], train: {max_length: 64}}
  - rounds:
      times: 3
      init: {policy: $sft}
      until: {metric: quality.reward, min_gain: 0.1}
      stages:
        - {kind: sft, name: policy, init: $policy, data: [rows.jsonl], train: {max_length: 64}}
        - {kind: evaluate, name: quality, init: $policy, data: [rows.jsonl], evaluate: {}}
  - {kind: evaluate, name: final, init: $policy, inputs: {baseline: $policy}, data: [rows.jsonl], evaluate: {}}
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan after the rounds measured these, each with the stages before it finished."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    recipe = read(Path("x.yaml"), STAGES)

    def after(*values: float, metric: str = "reward") -> Plan:
        there = plan(recipe, Path("runs"))
        for number, value in enumerate(values, 1):
            for stage in ("sft", f"policy-{number}", f"quality-{number}"):
                folder = there.stage(stage).folder
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "done.json", {"stage": stage, "numbers": {metric: value}})
        return plan(recipe, Path("runs"))

    return after


def names(there: Plan) -> list[str]:
    return [stage.name for stage in there.stages]


def test_before_anything_is_measured_every_round_is_planned(planned: Callable[..., Plan]):
    there = planned()
    assert len(there.stages) == 1 + 3 * 2 + 1
    assert not there.not_needed
    assert there.stage("final").stage.init == "policy-3"


def test_rounds_that_gain_go_on(planned: Callable[..., Plan]):
    assert not planned(0.2, 0.4).not_needed


def test_a_round_without_gain_is_the_last_and_what_follows_takes_it(planned: Callable[..., Plan]):
    there = planned(0.2, 0.25)
    assert names(there) == ["sft", "policy-1", "quality-1", "policy-2", "quality-2", "final"]
    assert list(there.not_needed) == ["policy-3", "quality-3"]
    assert "after round 2" in there.not_needed["policy-3"]
    assert "0.05" in there.not_needed["policy-3"]
    final = there.stage("final")
    assert final.stage.init == "policy-2"
    assert final.inputs == {"baseline": there.stage("policy-2").folder}
    assert final.key["init"] == there.stage("policy-2").fingerprint  # part of the name of what follows


def test_the_name_without_a_number_is_the_last_round_that_is_made(planned: Callable[..., Plan]):
    there = planned(0.2, 0.25)
    assert there.stage("policy").name == "policy-2"
    with pytest.raises(UserError, match=r"policy-3.*not needed"):
        there.stage("policy-3")


def test_a_plan_of_a_settled_plan_is_the_same(planned: Callable[..., Plan]):
    there = planned(0.2, 0.25)
    again = plan(there.recipe, there.runs)
    assert names(again) == names(there)
    assert again.not_needed == there.not_needed
    assert [p.fingerprint for p in again.stages] == [p.fingerprint for p in there.stages]


def test_a_metric_that_the_stage_did_not_leave_is_named_with_those_it_left(planned: Callable[..., Plan]):
    with pytest.raises(UserError, match=r"x\.yaml:5: until: 'quality-1' left no finite number reward.*accuracy"):
        planned(0.2, metric="accuracy")
