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
OF_TODAY = ("qwen3-1.7b", "qwen3-30b-a3b", "gemma3-4b", "llama3.2-3b", "smollm3-3b", "phi4-mini")
ON_PAIRS = {  # recipe → its last stage's learning rate, and its first loss where that is known beforehand
    "llama2-7b/dpo-qlora.yaml": (5e-6, math.log(2)),
    "mistral-7b/dpo-qlora.yaml": (5e-6, math.log(2)),
    "zephyr-7b/dpo-qlora.yaml": (5e-6, math.log(2)),
    "mistral-7b/kto-qlora.yaml": (5e-6, 0.5),
    "mistral-7b/orpo-qlora.yaml": (5e-5, None),
    "mistral-7b/simpo-qlora.yaml": (5e-6, None),
    **{f"{family}/dpo-qlora.yaml": (5e-6, math.log(2)) for family in OF_TODAY},
    "qwen3-30b-a3b/dpo-qlora.yaml": (5e-6, math.log(2) + 0.001 * 2.033),  # and the router's loss, by its coefficient
}
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


def labelled(file: Path, first: int, count: int) -> Path:
    """Answers one by one, each with whether it is wanted, as kto-mix-14k has them."""
    with file.open("w", encoding="utf-8") as out:
        for n in range(first, first + count):
            said = "I do not know." if n % 2 else f"It is {n + 1}."
            turns = [{"role": "user", "content": f"What is {n} plus one?"}, {"role": "assistant", "content": said}]
            out.write(json.dumps({"prompt": turns[:1], "completion": turns[1:], "label": n % 2 == 0}) + "\n")
    return file


def made(name: str, folder: Path) -> tuple[PlannedStage, float]:
    """The recipe's last stage, made from a tiny model in two steps, and the learning rate it is for."""
    family, file = name.split("/")[0], ROOT / "recipes" / name
    sets = [f"model.path={model(family, folder / 'model')}"]
    if family == "mistral-7b" and not read(file, STAGES).chat_template:
        sets.append("chat_template=llama2")  # the real model brings its own
    for stage in read(file, STAGES).stages:
        write = {
            "conversations": rows,
            "pairs": lambda f, a, b: pairs(f, a, b, family == "llama2-7b"),
            "labelled answers": labelled,
        }[stage.kind.rows]
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
    return there.stages[-1], read(file, STAGES).stages[-1].blocks["train"]["learning_rate"]


@pytest.mark.parametrize("name", ON_PAIRS)
def test_a_recipe_on_pairs_runs_on_a_tiny_model_of_its_family(name, tmp_path):
    from safetensors.torch import load_file

    stage, rate = made(name, tmp_path)
    numbers = stage.done["numbers"]
    assert numbers["steps"] == 2
    expected_rate, first_loss = ON_PAIRS[name]
    assert first_loss is None or numbers["loss_first"] == pytest.approx(first_loss, abs=1e-3)
    assert math.isfinite(numbers["eval_loss"])
    assert {"accuracies", "margins"} <= numbers.keys()
    assert rate == expected_rate
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
