"""Every kind that trains, on a GPU in bfloat16: a chain from SFT to PPO with whole weights, LoRA and QLoRA.

`FT_GPU_TESTS_ON_CPU=1` runs the same chain in float32 on a CPU, to see that the test itself works.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.files import read_lines
from ft.results.store import Plan

pytestmark = pytest.mark.gpu

NF4 = {"lora": tiny.LORA, "quantization": {**tiny.NF4, "bnb_4bit_compute_dtype": "bfloat16"}}
WEIGHTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "lora": {"lora": tiny.LORA},
    "qlora": NF4,
    "qlora-paged": {**NF4, "train": {"optim": "paged_adamw_8bit"}},
}
MEASURED = {"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True, "logging_steps": 1}
ANSWERS = {
    **{"max_completion_length": 12, "max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 2},
    **{"learning_rate": 1e-3, "lr_scheduler_type": "constant", "beta": 0.05, "per_device_eval_batch_size": 8},
    **{"logging_steps": 1, "eval_steps": 1, "save_steps": 1, "gradient_checkpointing": True},
}


def write_rows(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def chain(folder: Path, base: Path, data: Path, weights: str) -> Plan:
    """A plan of sft → dpo and sft → reward → report-card → ppo, rloo; evaluate; each stage with the same weights."""
    turns = [
        (f"{n} {tiny.THINGS[n % 8]}?", f"oh, {tiny.COLOURS[n % 8]}", tiny.COLOURS[n % 8], tiny.COLOURS[(n + 1) % 8])
        for n in range(32)
    ]
    answers = [{"role": "assistant", "content": ""}]
    pairs = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{**answers[0], "content": chosen}],
            "rejected": [{**answers[0], "content": rejected}],
        }
        for prompt, chosen, rejected, _ in turns
    ]
    asked = [{"prompt": prompt, "answer": right} for prompt, _, right, _ in turns]
    pair_rows = {"data": [{"path": write_rows(folder / "pairs.jsonl", pairs), "format": "preference"}]}
    prompt_rows = {"data": [{"path": write_rows(folder / "prompts.jsonl", asked), "format": "prompt"}]}
    blocks = {key: block for key, block in WEIGHTS[weights].items() if key != "train"}
    more = WEIGHTS[weights].get("train", {})
    train = {**tiny.TRAIN, "max_steps": 16, **MEASURED, **more, "gradient_checkpointing": True}
    held_out = {"rows": {"eval_fraction": 0.25}}
    learns = {"train": {**ANSWERS, **more}, **prompt_rows, **held_out, **blocks, "guard": {"cut": 1.0}}
    stages = [
        tiny.sft(data, {**train, "max_steps": 40, "eval_steps": 20}, **held_out, **blocks),
        {"kind": "dpo", "init": "$sft", **pair_rows, "train": {**train, "beta": 0.5}, **held_out, **blocks},
        {"kind": "reward", "init": "$sft", **pair_rows, "reward": {"margin": "none"}, "train": train, **held_out}
        | blocks,
        {"kind": "report-card", "init": "$reward", **pair_rows, "card": {"batch_size": 8}},
        {"kind": "ppo", "init": "$sft", "inputs": {"helpful": "$reward", "critic": "$reward"}, "reward": {}, **learns},
        {"kind": "rloo", "init": "$sft", "inputs": {"helpful": "$reward"}, "reward": {}, **learns},
        {"kind": "evaluate", "init": "$dpo", "inputs": {"baseline": "$sft"}, **prompt_rows}
        | {"evaluate": {"reward": "answer", "kl": True, "max_new_tokens": 12, "batch_size": 8}},
    ]
    return tiny.planned(tiny.recipe(folder, stages, model=str(base)), folder / "runs")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_chain_of_every_kind_that_trains_is_made_and_its_first_steps_are_what_they_must_be(
    weights, base, data, tmp_path, monkeypatch
):
    if os.environ.get("FT_GPU_TESTS_ON_CPU"):
        monkeypatch.setattr("ft.training.loop.device_arguments", lambda train, where: {"use_cpu": True, "bf16": False})
    plan = chain(tmp_path, base, data, weights)
    for stage in plan.stages:
        tiny.make(plan, stage.name)
    done = {stage.name: stage for stage in tiny.planned(tmp_path / "tiny.yaml", tmp_path / "runs").stages}
    assert {name: stage.state for name, stage in done.items()} == dict.fromkeys(done, "done")

    def first(name: str, key: str) -> float:
        return next(line[key] for line in read_lines(done[name].folder / "metrics.jsonl") if key in line)

    sft, dpo = done["sft"].done["numbers"], done["dpo"].done["numbers"]
    assert sft["eval_loss"] < 0.7 * sft["eval_loss_first"]
    assert first("dpo", "eval_loss") == pytest.approx(math.log(2), abs=1e-3)  # of policy and reference alike
    assert dpo["eval_loss"] < math.log(2) - 0.01
    assert first("ppo", "policy/ratio") == pytest.approx(1, abs=0.02)
    assert first("ppo", "kl") == pytest.approx(0, abs=0.05)
    assert first("rloo", "answers/kl") == pytest.approx(0, abs=0.05)
    assert all(math.isfinite(value) for stage in done.values() for value in finite_numbers(stage.done["numbers"]))


def finite_numbers(numbers: dict[str, Any]) -> list[float]:
    return [value for value in numbers.values() if isinstance(value, int | float)]
