"""A config of each other trainer, imported, trains two steps: on a tiny model, else as the recipe says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import import_page
from ft.recipe import Recipe, Verdicts, check_tree, read
from ft.recipe.yaml import Block
from ft.results.store import plan
from ft.run.run import prepare_rows
from ft.run.stage import make_stage
from ft.stages import STAGES
from ft.tools.importing.chain import import_recipe

ZEPHYR = "alignment-handbook/zephyr-7b-beta/sft/config_full.yaml"
CONFIGS = [
    "axolotl/local-files.yml",
    "llama-factory/qwen_train_on_prompt.yaml",
    "torchtune/preference_local.yaml",
    "ms-swift/sft_args.json",
    ZEPHYR,
]
ON_A_CPU = {"bf16": "false", "optim": "adamw_torch", "max_steps": "2", "logging_steps": "1", "save_strategy": "no"}


def check(tree: Block, path: Path) -> Recipe:
    return check_tree(tree, path, STAGES, Verdicts(None))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_recipe_trains(name: str, base: Path, data: Path, tmp_path: Path):
    to = tmp_path / "mine.yaml"
    stage = import_recipe([import_page.PEER_FILES / name], to, check).drafts[0].kind_name
    sets = [f"model={base}", *(f"{stage}.train.{key}={value}" for key, value in ON_A_CPU.items())]
    if name == ZEPHYR:  # its rows are on the Hub, and its template has tokens of its own
        sources = [f"{stage}.data=[{{path: {data}, format: messages}}]", "chat_template=null"]
        sets += [*sources, f"{stage}.train.report_to=none", f"{stage}.train.max_length=128"]
    recipe_run = plan(read(to, STAGES, sets), tmp_path / "runs")
    planned = recipe_run.stage(stage)
    prepare_rows(recipe_run, planned)
    planned.folder.mkdir(parents=True)
    make_stage(recipe_run.job(planned).write())
    numbers = recipe_run.stage(stage).done["numbers"]
    assert numbers["steps"] == 2
    assert math.isfinite(numbers["loss_last"])
