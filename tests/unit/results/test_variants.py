"""Results made with other settings than the recipe has: they are found, and what differs is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.errors import UserError
from ft.files import write_json
from ft.report.gather import gather_report
from ft.report.run import of_plan
from ft.results.store import Plan
from ft.results.variants import find_finished, finished_stage
from ft.tools.chat import newest_model

Make = Callable[..., Plan]
SCORE = {"kind": "evaluate", "init": "$sft", "evaluate": {"reward": "answer"}}


@pytest.fixture
def file(base: Path, data: Path, tmp_path: Path) -> Path:
    """sft → its evaluation and a second sft."""
    stages: list[dict[str, Any]] = [
        tiny.sft(data, {"max_steps": 5}),
        {**SCORE, "data": [{"path": str(data), "format": "prompt"}]},
        tiny.sft(data, name="more", init="$sft"),
    ]
    return tiny.recipe(tmp_path, stages, model=str(base))


@pytest.fixture
def make(file: Path, tmp_path: Path) -> Make:
    """Stages as if they were made with these settings."""

    def made(*names: str, sets: tuple[str, ...] = ()) -> Plan:
        plan = tiny.planned(file, tmp_path / "runs", sets)
        for name in names:
            planned = plan.stage(name)
            write_json(planned.folder / "key.json", planned.key)
            write_json(planned.folder / "job.json", {"name": name, "kind": planned.stage.kind_name})
            write_json(planned.folder / "done.json", {"kind": planned.stage.kind_name, "numbers": {"steps": 1}})
        return plan

    return made


def test_the_newest_result_of_other_settings_is_found_and_what_differs_is_said(make: Make):
    tried = make("sft", "more", sets=("sft.train.max_steps=1", "seed=7"))
    said: list[str] = []
    target = newest_model(make(), said.append)
    assert target.folder == tried.stage("more").folder
    assert said == [
        f"{target.folder}: made with other settings than the recipe has: "
        "seed=7 (the recipe: 1), sft.train.max_steps=1 (the recipe: 5)"
    ]
    assert finished_stage(make(), "sft", said.append) == tried.stage("sft").folder


def test_the_result_of_the_recipe_as_it_is_comes_first(make: Make):
    plan = make("sft")
    make("sft", "more", sets=("sft.train.max_steps=1",))
    said: list[str] = []
    assert newest_model(plan, said.append).folder == plan.stage("sft").folder
    assert said == []


def test_what_is_not_finished_or_was_set_aside_is_no_result(make: Make):
    folder = make("sft", sets=("seed=7",)).stage("sft").folder
    folder.rename(folder.with_name(f"{folder.name}.old-1"))
    folder = make("sft", sets=("seed=8",)).stage("sft").folder
    (folder / "done.json").unlink()
    plan = make()
    assert find_finished(plan, ["sft"]) is None
    with pytest.raises(UserError, match="'sft' is not made") as error:
        finished_stage(plan, "sft", print)
    assert str(error.value).endswith(f"Make it: ft run {plan.recipe.file} --to sft")


def test_a_page_shows_results_of_other_settings_where_there_are_none_of_the_recipe(make: Make, tmp_path: Path):
    tried = make("sft", "evaluate", sets=("sft.train.max_steps=1",))
    report = gather_report(of_plan(make()))
    assert [stage.result.result.folder for stage in report.stages[:2]] == [p.folder for p in tried.stages[:2]]
    assert (report.stages_made, report.stages_of_other_settings) == (0, 2)
    warning = "made with other settings than the recipe has: sft.train.max_steps=1 (the recipe: 5)"
    assert report.problems == (("sft", warning), ("evaluate", warning))


def test_the_report_of_a_recipe_keeps_what_a_run_with_other_settings_has_made(make: Make, file: Path, tmp_path: Path):
    make("sft", sets=("sft.train.max_steps=1",))
    command = ["report", str(file), "--runs", str(tmp_path / "runs")]
    pages = [
        Path(CliRunner().invoke(app, [*command, *sets]).stdout.strip()).read_text(encoding="utf-8")
        for sets in (["--set", "sft.train.max_steps=1"], [])
    ]
    assert ["max_steps=1 (the recipe: 5)" in page for page in pages] == [False, True]
    assert ["1 of 3 stages</b> done" in page for page in pages] == [True, False]
    assert "0 of 3 stages</b> done, 1 with other settings" in pages[1]


def test_numbers_of_other_settings_do_not_stand_for_a_run_that_has_its_own(make: Make):
    make("sft", "evaluate", sets=("sft.train.max_steps=1",))
    run = of_plan(make("sft"))
    assert [stage.name for stage in run.main_stages] == ["sft", "more"]
    assert [bool(stage.other_settings) for stage in run.stages] == [False, True, False]


@pytest.mark.parametrize(
    "command", [["chat"], ["export"], ["gatt-bank", "--bank", "b", "--kind", "k", "--to", "t"]], ids=lambda c: c[0]
)
def test_set_is_an_option_of_commands_about_a_recipes_model(command: list[str], file: Path, tmp_path: Path):
    name, *options = command
    refused = CliRunner().invoke(app, [name, str(file), *options, "--set", "zzz.a=1", "--runs", str(tmp_path / "runs")])
    assert not isinstance(refused.exception, SystemExit), refused.output
