"""What `ft plan --probe` runs on a GPU, run here at tiny size: the longest rows alone, and answers without an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.fit.probe import can_be_probed, few_steps, longest_rows_trainer
from ft.recipe.job import Job

ANSWER = 24
TRAIN = {
    **{"max_length": 64, "per_device_train_batch_size": 4, "num_train_epochs": 3, "gradient_checkpointing": False},
    "learning_rate": 1e-3,
}
REINFORCED = {
    **{"per_device_train_batch_size": 4, "max_completion_length": ANSWER, "per_device_eval_batch_size": 4},
    **{"max_steps": 50, "eval_steps": 5, "save_steps": 5, "num_generations": 2, "gradient_checkpointing": False},
}
LONGEST = "000012 sky?"  # which the model answers and ends, as it does shorter ones


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    asked = [f"{number} {tiny.THINGS[number % 8]}?" for number in range(15)]
    rows = [{"prompt": ask, "answer": "blue"} for ask in (*asked, LONGEST)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def job_of(folder: Path, kind: str, base: Path, data: Path, train: dict[str, Any], **blocks: Any) -> Job:
    """As the probe would run the stage."""
    stage = {"kind": kind, "data": [{"path": str(data)}], "train": train, **blocks}
    there = tiny.planned(tiny.recipe(folder, [stage], model=str(base)), folder / "runs")
    assert can_be_probed(there, there.stage(kind)) == (not there.stage(kind).stage.kind.rows)  # none is prepared yet
    return few_steps(tiny.job(there, kind), folder / "probe")


@pytest.mark.parametrize(
    ("kind", "blocks"), [("ppo", {"lora": tiny.LORA}), ("rloo", {}), ("grpo", {"lora": tiny.LORA})]
)
def test_a_stage_that_answers_is_probed_with_its_longest_prompt_and_answers_without_an_end(
    kind: str, blocks: dict[str, Any], tmp_path: Path, ending: Path, prompts: Path
):
    rewarded = {"reward": {"rewards": {"answer": 1.0}}, "rows": {"eval_fraction": 0.0}}
    trainer, _ = longest_rows_trainer(job_of(tmp_path, kind, ending, prompts, REINFORCED, **rewarded, **blocks))
    assert {row["prompt"][0]["content"] for row in trainer.train_dataset} == {LONGEST}
    trainer.train()
    assert trainer.state.global_step == 2
    lengths = {line["completions/mean_length"] for line in trainer.state.log_history if "reward" in line}
    assert lengths == {ANSWER}


def test_a_stage_on_rows_is_probed_with_the_longest(tmp_path: Path, base: Path):
    data = tmp_path / "rows.jsonl"
    rows = [("sky?", "blue"), ("sky?", "blue " * 6), ("coal?", "black")]
    with data.open("w", encoding="utf-8") as out:
        for ask, answer in rows:
            said = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer.strip()}]
            out.write(json.dumps({"messages": said}) + "\n")
    trainer, longest = longest_rows_trainer(job_of(tmp_path, "sft", base, data, TRAIN))
    assert {len(row["input_ids"]) for row in trainer.train_dataset} == {longest}
    assert len(trainer.train_dataset) == len(rows)
