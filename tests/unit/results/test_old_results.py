"""Results made before a change of the program are still found, planned and reported.

tests/data/old_runs holds the small files of three stages, made on a CPU by the commit before the rooms were moved: a
chat model, its evaluation, and preference training that was interrupted. tests/golden/tiny_fingerprints.json names the
results of the shipped tiny recipes, which depend on the recipes and on data/tiny alone, not on the machine. Whoever
changes one of these on purpose writes the new names; whoever changes the program only must leave them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.recipe import read
from ft.results.store import plan
from ft.stages import STAGES

ROOT = tiny.ROOT
RECIPES = ROOT / "recipes" / "tiny"
SETS = ("sft.train.max_steps=4", "sft.train.logging_steps=2", "questions.data.0.rows=12")
DPO_SETS = ("dpo.train.max_steps=300", "dpo.train.eval_on_start=false", "dpo.train.logging_steps=1")
GOLDEN = json.loads((ROOT / "tests" / "golden" / "tiny_fingerprints.json").read_text(encoding="utf-8"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests" / "data" / "old_runs", tmp_path / "runs"))


def ft(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", [file.stem for file in sorted(RECIPES.glob("*.yaml"))])
def test_the_shipped_recipes_name_the_results_they_have_always_named(name: str, tmp_path: Path):
    planned = plan(read(RECIPES / f"{name}.yaml", STAGES), tmp_path / "runs").stages
    assert {stage.name: stage.fingerprint for stage in planned} == GOLDEN[name]


def test_finished_results_are_not_made_again_and_an_interrupted_one_continues(runs: Path):
    sets = [word for pair in (*SETS, *DPO_SETS) for word in ("--set", pair)]
    lines = {
        line["stage"]: line for line in json.loads(ft("plan", RECIPES / "dpo.yaml", *sets, "--runs", runs, "--json"))
    }
    found = {name: (lines[name]["state"], Path(lines[name]["folder"]).name) for name in ("sft", "questions", "dpo")}
    assert found == {
        "sft": ("done", "sft-61806cf09908"),  # under the name of the recipe that this one extends
        "questions": ("done", "questions-eeec35bf431c"),
        "dpo": ("resume", "dpo-016cc34f5840"),
    }
    assert (lines["sft"]["rows"], lines["sft"]["steps"]) == (9142, 4)  # of the prepared rows
    assert lines["dpo"]["why"] == "was interrupted; continues"


def test_the_ledger_lists_them(runs: Path):
    rows = {row["stage"]: row for row in json.loads(ft("runs", "--runs", runs, "--json"))}
    assert {name: (row["recipe"], row["kind"], row["state"], row["seconds"]) for name, row in rows.items()} == {
        "sft": ("tiny-chat", "sft", "done", 71.1),
        "questions": ("tiny-chat", "evaluate", "done", 9.5),
        "dpo": ("tiny-dpo", "dpo", "interrupted", None),
    }
    assert rows["questions"]["numbers"]["answer"] == 0.25
    lines = json.loads(ft("runs", "diff", "tiny-chat:questions", "tiny-dpo:dpo", "--runs", runs, "--json"))
    assert lines["key"][0] == {"key": "kind", "here": "evaluate", "there": "dpo"}


@pytest.mark.parametrize("of", ["recipe", "folder"])
def test_the_report_shows_them(runs: Path, of: str):
    sets = [word for pair in SETS for word in ("--set", pair)]
    words = [RECIPES / "chat.yaml", *sets, "--runs", runs] if of == "recipe" else [runs / "tiny-chat"]
    page = Path(ft("report", *words).strip()).read_text(encoding="utf-8")
    for text in ("sft", "questions", "1.591", "9,142" if of == "recipe" else "61806cf09908", "the frog"):
        assert text in page
