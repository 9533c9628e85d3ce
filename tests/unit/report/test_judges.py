"""Judges beside each other: a reward that is exploited, and one that counts words, are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ft.evaluation.diversity import self_bleu
from ft.files import write_json, write_lines
from ft.recipe import read
from ft.report.judges import judge_parts
from ft.report.parts import Part, Sentences, Table
from ft.report.run import of_plan
from ft.results.store import Plan, plan
from ft.stages import STAGES

TEXT = """name: rounds
model: hub/name
stages:
  - {kind: sft, data: [rows.jsonl], train: {max_length: 64}}
  - {kind: reward, name: helpful, init: $sft, data: [pairs.jsonl], train: {max_length: 64}}
  - rounds:
      times: 2
      init: {policy: $sft}
      stages:
        - {kind: sample, name: answers, init: $policy, inputs: {helpful: $helpful}, data: [rows.jsonl], sample: {}}
        - {kind: sft, name: policy, init: $sft, data: [{path: $answers, pool: last}], train: {max_length: 64}}
        - kind: judge
          name: wins
          init: $policy
          inputs: {other: $sft, scorer: $helpful}
          data: [asked.jsonl]
          judge: {kind: reward}
        - {kind: evaluate, name: quality, init: $policy, inputs: {baseline: $sft}, data: [asked.jsonl],
           evaluate: {by: topic}}
"""
START = "four words of it"


def asked(number: int) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": f"question {number}"}], "topic": "sums" if number < 20 else "names"}


class Results:
    """Makes results of the recipe above; a judge is given a difference of scores for each of 40 prompts."""

    def __init__(self) -> None:
        for name in ("rows", "pairs", "asked"):
            Path(f"{name}.jsonl").write_text("{}\n", encoding="utf-8")
        Path("x.yaml").write_text(TEXT, encoding="utf-8")
        self.recipe = read(Path("x.yaml"), STAGES)

    @property
    def plan(self) -> Plan:
        return plan(self.recipe, Path("runs"))

    def judged(self, stage: str, margins: Sequence[float], text: str = START) -> None:
        self._write(stage, "verdicts.jsonl", [
            {**asked(number), "answer": text, "other_answer": START, "margin": abs(margin),
             "outcome": "win" if margin > 0 else "loss" if margin < 0 else "tie"}
            for number, margin in enumerate(margins)
        ])  # fmt: skip

    def evaluated(self, stage: str, gains: Sequence[float]) -> None:
        self._write(stage, "answers.jsonl", [
            {**asked(number), "completion": START, "score": 0.5 + gain, "baseline_completion": START,
             "baseline_score": 0.5}
            for number, gain in enumerate(gains)
        ])  # fmt: skip

    def _write(self, stage: str, file: str, lines: Sequence[Mapping[str, Any]]) -> None:
        planned = self.plan.stage(stage)
        planned.folder.mkdir(parents=True)
        write_lines(planned.folder / file, lines)
        write_json(planned.folder / "done.json", {"stage": stage, "kind": planned.stage.kind_name, "numbers": {}})

    def parts(self) -> list[Part]:
        (rounds,) = self.recipe.rounds
        return judge_parts(rounds, of_plan(self.plan))

    def warnings(self) -> list[str]:
        return [line for part in self.parts() if isinstance(part, Sentences) for line in part.lines]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.chdir(tmp_path)
    return Results()


def test_a_reward_that_rises_while_code_says_worse_is_said_to_be_exploited(results: Results):
    results.judged("wins-1", [1.0] * 40)
    results.evaluated("quality-1", [-0.1] * 40)
    (warning,) = results.warnings()
    assert warning.startswith("wins prefers round 1 to the start, and quality, which nothing is trained for, does not")
    assert warning.endswith("The reward is being exploited.")


def test_judges_that_agree_are_not_warned_of(results: Results):
    results.judged("wins-1", [1.0] * 40)
    results.evaluated("quality-1", [0.1] * 40)
    assert results.warnings() == []


def test_a_version_worse_than_the_one_before_is_seen_though_it_beats_the_start(results: Results):
    for number, margin, gain in ((1, 1.0, 0.4), (2, 2.0, 0.2)):
        results.judged(f"wins-{number}", [margin] * 40)
        results.evaluated(f"quality-{number}", [gain] * 40)
    (warning,) = results.warnings()
    assert warning.startswith("wins prefers round 2 to the version before, and quality")


def test_a_judge_that_has_seen_the_last_version_alone_says_nothing_of_the_one_before(results: Results):
    for number in (1, 2):
        results.judged(f"wins-{number}", [float(number)] * 40)
    results.evaluated("quality-2", [0.2] * 40)
    assert results.warnings() == []


def test_a_win_of_longer_answers_alone_is_said_to_be_length(results: Results):
    results.judged("wins-1", [1.0] * 40, text=f"{START} and many more of them")
    (warning,) = results.warnings()
    assert "by length: the longer answer wins 100.0%" in warning


def test_the_table_says_what_is_trained_for_and_which_topic_loses_most(results: Results):
    results.judged("wins-1", [1.0] * 40)
    results.evaluated("quality-1", [-0.2] * 20 + [0.4] * 20)
    (table,) = [part for part in results.parts() if isinstance(part, Table)]
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [(row["judged by"], row["trained for"]) for row in rows] == [("wins", "yes"), ("quality", "no")]
    assert rows[1]["loses most on"] == "sums (-0.20, 20 prompts)"
    assert rows[1]["against the start"].startswith("50.0%")


def test_answers_that_are_all_the_same_have_a_self_bleu_of_one():
    assert self_bleu([["the frog is green today"] * 3]) == pytest.approx(1.0)
    assert self_bleu([["the frog is green today", "a bee lives inside its hive"]]) == pytest.approx(0.0, abs=0.05)
    assert self_bleu([["alone"]]) is None
