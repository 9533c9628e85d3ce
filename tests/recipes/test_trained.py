"""Every recipe for a real model runs end to end on a tiny model of its family, so that no recipe rots.

The recipe is taken as it is; only weights, rows, their number and the precision of a CPU are set.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.families import model

import tiny
from ft.files import read_json
from ft.recipe import read
from ft.results.store import PlannedStage, plan
from ft.run.rows import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES

ROOT = tiny.ROOT
REAL = [
    *("llama2-7b/sft.yaml", "llama2-7b/sft-qlora.yaml", "llama2-7b/chat.yaml"),
    *("llama3-8b/sft-qlora.yaml", "mistral-7b/sft-qlora.yaml", "zephyr-7b/sft-qlora.yaml"),
    *("flan-t5-base/sft.yaml", "flan-t5-base/sft-qlora.yaml", "gpt2/sft.yaml", "opt/sft.yaml", "bloom/sft.yaml"),
    *("mistral-7b-window/sft-qlora.yaml", "mixtral-8x7b/sft-lora.yaml"),
]


def rows(file: Path, first: int, count: int) -> Path:
    """Rows as the recipes' data sets hold them: messages beside a copy of the first as `prompt`, and an id."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(first, first + count):
            question, answer = f"What is {number} plus one?", f"It is {number + 1}."
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            out.write(json.dumps({"prompt": question, "prompt_id": str(number), "messages": messages}) + "\n")
    return file


def made(name: str, folder: Path) -> PlannedStage:
    """The recipe's sft stage, made from a tiny model in two steps."""
    train, held_out = rows(folder / "train.jsonl", 0, 48), rows(folder / "test.jsonl", 100, 4)
    sets = [
        f"model.path={model(name.partition('/')[0], folder / 'model')}",
        f"sft.data.0.path={train}",
        f"sft.eval_data.0.path={held_out}",
        *(f"sft.{side}.0.{key}=null" for side in ("data", "eval_data") for key in ("rows",)),
        *(f"sft.{side}.0.split=train" for side in ("data", "eval_data")),
        *(f"sft.train.{key}=false" for key in ("bf16", "fp16")),
        *(f"sft.train.{key}=1" for key in ("logging_steps", "eval_steps", "save_steps")),
        *("sft.train.max_steps=2", "sft.train.max_length=128", "sft.train.gradient_accumulation_steps=2"),
    ]
    recipe = read(ROOT / "recipes" / name, STAGES, sets)
    there = plan(recipe, folder / "runs")
    stage = there.stage("sft")
    prepare_rows(there, stage)
    stage.folder.mkdir(parents=True)
    make_stage(there.job(stage).write())
    return there.stage("sft")


@pytest.mark.parametrize("name", REAL)
def test_a_recipe_for_a_real_model_runs_on_a_tiny_one(name: str, tmp_path: Path):
    stage = made(name, tmp_path)
    numbers = stage.done["numbers"]
    assert numbers["steps"] == 2
    assert math.isfinite(numbers["loss_last"])
    assert math.isfinite(numbers["eval_loss"])
    if name == "mixtral-8x7b/sft-lora.yaml":
        assert (stage.folder / "adapter_model.safetensors").exists()
    else:
        assert_trained(stage, quantised="quantization" in stage.stage.blocks)


def assert_trained(stage: PlannedStage, quantised: bool) -> None:
    from safetensors.torch import load_file

    if not quantised:
        assert (stage.folder / "model.safetensors").exists()
        return
    quantization: dict[str, Any] = read_json(stage.folder / "lineage.json")["quantization"]
    assert (quantization["load_in_4bit"], quantization["bnb_4bit_quant_type"]) == (True, "nf4")
    adapter = load_file(stage.folder / "adapter_model.safetensors")
    moved = [tensor.abs().max().item() for name, tensor in adapter.items() if "lora_B" in name]
    assert moved
    assert min(moved) > 0  # every B starts as zeros
