"""Every recipe that trains on pairs runs end to end on a tiny model of its family, its SFT first where it has one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.recipes.families import model
from tests.recipes.test_trained import rows

import tiny
from ft.recipe import read
from ft.results.store import PlannedStage, plan
from ft.run.rows import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES

ROOT = tiny.ROOT
# Of models with one parent recipe, one of each architecture; the rest differs in its path and its sizes.
OF_TODAY = ("qwen3-1.7b", "gemma3-4b", "llama3.2-3b", "smollm3-3b", "phi4-mini")
ON_PAIRS = (
    *("llama2-7b/dpo-qlora.yaml", "mistral-7b/dpo-qlora.yaml", "zephyr-7b/dpo-qlora.yaml"),
    *(f"{family}/dpo-qlora.yaml" for family in OF_TODAY),
)
HH = "\n\nHuman: What is {n} plus one?\n\nAssistant: {said}"


def pairs(file: Path, first: int, count: int, transcripts: bool) -> Path:
    """Rows as the recipes' data sets hold them: transcripts (hh-rlhf), or dialogues beside their prompt."""
    with file.open("w", encoding="utf-8") as out:
        for n in range(first, first + count):
            question, good, bad = f"What is {n} plus one?", f"It is {n + 1}.", "I do not know."
            if transcripts:
                row: dict[str, object] = {"chosen": HH.format(n=n, said=good), "rejected": HH.format(n=n, said=bad)}
            else:
                row = {"prompt": question, "prompt_id": str(n), "score_chosen": 8.0, "score_rejected": 2.0}
                for side, said in (("chosen", good), ("rejected", bad)):
                    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
                    row |= {side: turns, "messages": turns}
            out.write(json.dumps(row) + "\n")
    return file


def made(name: str, folder: Path) -> tuple[PlannedStage, float]:
    """The recipe's dpo stage, made from a tiny model in two steps, and the learning rate it is for."""
    family, file = name.split("/")[0], ROOT / "recipes" / name
    sets = [f"model.path={model(family, folder / 'model')}"]
    if family == "mistral-7b":
        sets.append("chat_template=llama2")  # the real model brings its own
    for stage in read(file, STAGES).stages:
        write = rows if stage.kind is STAGES["sft"] else lambda f, a, b: pairs(f, a, b, family == "llama2-7b")
        sources = {"data": (0, 32), "eval_data": (100, 4)}
        for side, (first, count) in sources.items():
            path = write(folder / f"{stage.name}-{side}.jsonl", first, count)
            sets += [f"{stage.name}.{side}.0.{key}" for key in (f"path={path}", "rows=null", "split=train")]
        sets += [f"{stage.name}.train.{key}=false" for key in ("bf16", "fp16")]
        sets += [f"{stage.name}.train.{key}=1" for key in ("logging_steps", "eval_steps", "save_steps")]
        short = ("max_steps=2", "max_length=160", "gradient_accumulation_steps=2")
        sets += [f"{stage.name}.train.{key}" for key in short]
    for name in [stage.name for stage in read(file, STAGES).stages]:
        there = plan(read(file, STAGES, sets), folder / "runs")
        prepare_rows(there, there.stage(name))
        there.stage(name).folder.mkdir(parents=True)
        make_stage(there.job(there.stage(name)).write())
    return there.stage("dpo"), read(file, STAGES).stage("dpo").blocks["train"]["learning_rate"]


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_recipe_on_pairs_runs_on_a_tiny_model_of_its_family(name, tmp_path):
    from safetensors.torch import load_file

    stage, rate = made(name, tmp_path)
    numbers = stage.done["numbers"]
    assert numbers["steps"] == 2
    assert numbers["loss_first"] == pytest.approx(math.log(2), abs=1e-3)
    assert math.isfinite(numbers["eval_loss"])
    assert rate == 5e-6
    adapter = load_file(stage.folder / "adapter_model.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    assert min(value.abs().max() for name, value in adapter.items() if "lora_B" in name) > 0


def test_zephyrs_dpo_trains_its_sft_on_with_the_handbooks_numbers():
    recipe = read(ROOT / "recipes" / "zephyr-7b/dpo-qlora.yaml", STAGES)
    stage = recipe.stage("dpo")
    assert [found.name for found in recipe.stages] == ["sft", "dpo"]
    assert stage.init == "sft"
    handbook = {"beta": 0.01, "learning_rate": 5e-6, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
    handbook |= {"num_train_epochs": 1.0, "max_length": 1024, "optim": "paged_adamw_32bit"}
    assert {key: stage.blocks["train"][key] for key in handbook} == handbook
    assert stage.blocks["rows"]["max_prompt_length"] == 512
    assert stage.blocks["lora"] == recipe.stage("sft").blocks["lora"]


def test_mistrals_dpo_holds_the_published_summarisation_settings():
    stage = read(ROOT / "recipes" / "mistral-7b/dpo-qlora.yaml", STAGES).stage("dpo")
    published = {"beta": 0.01, "learning_rate": 5e-6, "num_train_epochs": 3.0, "max_length": 4096}
    assert {key: stage.blocks["train"][key] for key in published} == published
    assert (stage.blocks["lora"]["r"], stage.blocks["lora"]["lora_alpha"]) == (8, 16)
