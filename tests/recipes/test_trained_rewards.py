"""Every reward recipe runs end to end on a tiny model of its family: SFT, reward model, report card."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.families import model
from tests.recipes.test_trained import rows
from tests.recipes.test_trained_on_pairs import pairs

import tiny
from ft.files import read_json
from ft.recipe import read
from ft.results.store import PlannedStage, plan
from ft.run.rows import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES

ROOT = tiny.ROOT
PAPER = {  # arXiv:2307.09288, section 3.2.2; optimiser from 2.2
    "learning_rate": 1e-5,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 0.03,
    "num_train_epochs": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-5,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}


def posts(file: Path, first: int, count: int) -> Path:
    """Rows as SHP holds them: a post, two comments, and which is preferred."""
    with file.open("w", encoding="utf-8") as out:
        for n in range(first, first + count):
            sides = {"human_ref_A": f"It is {n + 1}.", "human_ref_B": "I do not know."}
            out.write(json.dumps({"history": f"What is {n} plus one?", **sides, "labels": 1}) + "\n")
    return file


def written(file: Path, form: str, first: int, count: int) -> Path:
    if form == "messages":
        return rows(file, first, count)
    return posts(file, first, count) if form == "shp" else pairs(file, first, count, transcripts=form == "hh_pairs")


def made(name: str, folder: Path, axis: str) -> tuple[PlannedStage, PlannedStage]:
    """The recipe's reward model and its card, made from a tiny model in two steps."""
    file = ROOT / "recipes" / "llama2-7b" / name
    sets = [f"model.path={model('llama2-7b', folder / 'model')}"]
    for stage in read(file, STAGES).stages:
        for side, sources, first in (("data", stage.data, 0), ("eval_data", stage.eval_data, 100)):
            for place, source in enumerate(sources):
                path = written(folder / f"{stage.name}-{side}-{place}.jsonl", source["format"], first, 12)
                sets += [f"{stage.name}.{side}.{place}.{key}" for key in (f"path={path}", "rows=null", "split=train")]
        if "train" in stage.blocks:
            short = ("max_steps=2", "max_length=160", "gradient_accumulation_steps=2", "bf16=false")
            every = ("logging_steps=1", "eval_steps=2", "save_steps=2")
            sets += [f"{stage.name}.train.{key}" for key in (*short, *every)]
    names = [stage.name for stage in read(file, STAGES).stages]
    for name in names:
        there = plan(read(file, STAGES, sets), folder / "runs")
        prepare_rows(there, there.stage(name))
        there.stage(name).folder.mkdir(parents=True)
        make_stage(there.job(there.stage(name)).write())
    return there.stage(axis), there.stage(f"{axis}-card")


@pytest.mark.parametrize("axis", ["helpful", "safety"])
@pytest.mark.parametrize("twin", ["", "-qlora"], ids=["whole", "qlora"])
def test_a_reward_recipe_runs_on_a_tiny_model_of_its_family(axis: str, twin: str, tmp_path: Path):
    stage, card = made(f"reward-{axis}{twin}.yaml", tmp_path, axis)
    numbers = stage.done["numbers"]
    assert numbers["steps"] == 2
    assert math.isfinite(numbers["loss_last"])
    assert 0 <= numbers["accuracy"] <= 1
    assert card.done["numbers"]["pairs"] == 12
    assert len(read_json(stage.folder / "scores.json")) == 16
    assert (stage.folder / ("adapter_model.safetensors" if twin else "model.safetensors")).exists()


@pytest.mark.parametrize("axis", ["helpful", "safety"])
def test_a_whole_reward_model_is_trained_as_the_paper_trains_its_own(axis: str):
    stage = read(ROOT / "recipes" / "llama2-7b" / f"reward-{axis}.yaml", STAGES).stage(axis)
    train: dict[str, Any] = dict(stage.blocks["train"])
    assert {key: train[key] for key in PAPER} == PAPER
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 512
    assert stage.blocks["reward"]["warmup_least"] == 5
    assert (stage.init, set(stage.blocks)) == ("sft", {"train", "rows", "reward"})


def test_the_mixtures_are_the_papers():
    shares = {
        axis: [source.get("share") for source in read(ROOT / "recipes" / "llama2-7b" / file, STAGES).stage(axis).data]
        for axis, file in (("helpful", "reward-helpful.yaml"), ("safety", "reward-safety.yaml"))
    }
    assert shares == {"helpful": [0.5, 0.5, None], "safety": [0.9, 0.1]}
