"""The PPO recipes run end to end on a tiny model of their family: SFT, both reward models, PPO against them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.families import model
from tests.recipes.test_trained_rewards import written

import tiny
from ft.recipe import Recipe, read
from ft.results.store import PlannedStage, plan
from ft.run.rows import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES

ROOT = tiny.ROOT
PAPER = {  # arXiv:2307.09288, section 3.2.3
    "generation_batch_size": 512,
    "num_iterations": 1,
    "epsilon": 0.2,
    "beta": 0.01,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-5,
    "max_grad_norm": 1.0,
}


def shipped(name: str, sets: list[str] | None = None) -> Recipe:
    return read(ROOT / "recipes" / "llama2-7b" / name, STAGES, sets or [])


def asked(file: Path, first: int, count: int) -> Path:
    with file.open("w", encoding="utf-8") as out:
        for n in range(first, first + count):
            out.write(json.dumps({"prompt": f"What is {n} plus one?", "prompt_id": str(n)}) + "\n")
    return file


def made(name: str, folder: Path) -> PlannedStage:
    """The recipe's PPO stage, in two steps of four answers, from an SFT and reward models of one step."""
    sets = [f"model.path={model('llama2-7b', folder / 'model')}", "ppo.init=$sft"]
    wanted = ("sft", "helpful", "safety", "ppo")
    for stage in [one for one in shipped(name).stages if one.name in wanted]:
        for side, sources, first in (("data", stage.data, 0), ("eval_data", stage.eval_data, 100)):
            for place, source in enumerate(sources):
                file = folder / f"{stage.name}-{side}-{place}.jsonl"
                form = source["format"]
                path = asked(file, first, 8) if form == "prompt" else written(file, form, first, 8)
                sets += [f"{stage.name}.{side}.{place}.{key}" for key in (f"path={path}", "rows=null", "split=train")]
        short = ["max_steps=1", "gradient_accumulation_steps=1", "bf16=false", "logging_steps=1", "eval_steps=1"]
        short += ["save_steps=1"] + ([] if stage.name == "ppo" else ["max_length=160"])
        sets += [f"{stage.name}.train.{key}" for key in short]
    few = ("max_completion_length=8", "generation_batch_size=4", "per_device_train_batch_size=2", "max_steps=2")
    sets += [f"ppo.train.{key}" for key in few] + ["ppo.rows.max_prompt_length=120", "ppo.guard.cut=1"]
    for one in wanted:
        there = plan(shipped(name, sets), folder / "runs")
        prepare_rows(there, there.stage(one))
        there.stage(one).folder.mkdir(parents=True)
        make_stage(there.job(there.stage(one)).write())
    return there.stage("ppo")


@pytest.mark.parametrize("name", ["ppo-qlora.yaml", "ppo.yaml"])
def test_a_ppo_recipe_runs_on_a_tiny_model_of_its_family(name: str, tmp_path: Path, caplog: Any):
    stage = made(name, tmp_path)
    numbers = stage.done["numbers"]
    assert (numbers["steps"], numbers["prompts"], numbers["held_out"]) == (2, 8, 8)
    assert (stage.folder / ("model.safetensors" if name == "ppo.yaml" else "adapter_model.safetensors")).exists()
    assert (stage.folder / "critic").is_dir()
    assert (
        name == "ppo.yaml" or "a model of its own" not in caplog.text
    )  # policy, critic and both reward models stand on one


def test_the_whole_recipe_has_the_numbers_of_the_paper():
    stage = shipped("ppo.yaml").stage("ppo")
    train = stage.blocks["train"]
    assert {key: train[key] for key in PAPER} == PAPER
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 64
    assert stage.blocks["reward"]["safety_threshold"] == 0.15
    assert (stage.init, dict(stage.inputs)) == (
        "best-sft",
        {"helpful": "helpful", "safety": "safety", "critic": "helpful"},
    )


@pytest.mark.parametrize("name", ["ppo-qlora.yaml", "ppo.yaml"])
def test_the_gate_stands_before_ppo(name: str):
    stages = shipped(name).stages
    card = next(one for one in stages if one.kind_name == "report-card")
    assert card.require["accuracy"] >= 0.65
    assert [one.name for one in stages].index(card.name) < [one.name for one in stages].index("ppo")
