"""A kind brings all that is known of it: a new one is a file and an entry, a new format a function and a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ft.stages
import tiny
from ft.data.formats import FORMATS
from ft.errors import Problems, UserError
from ft.fit.gpus import GIB, Gpu
from ft.fit.kinds import stage_fit
from ft.fit.setting import Setting
from ft.fit.sharding import Sharding
from ft.recipe import Kind, Owner
from ft.recipe.check import check
from ft.recipe.kind import Display, Refused
from ft.recipe.yaml import Block, Items, Mark
from ft.report.gather import gather_report
from ft.report.run import of_plan
from ft.run.accelerate_config import Launch, support_table
from ft.run.preflight import preflight
from ft.stages import STAGES

NEW_STAGE = """
import json
from collections.abc import Mapping
from dataclasses import dataclass

from ft.encode.prepare import train_rows
from ft.errors import fail
from ft.fit.memory import moment
from ft.report.parts import Section, Sentences


@dataclass(frozen=True)
class CountOptions:
    max_length: int
    least: int = 1


def make(job):
    words = sum(len(row["input_ids"]) for row in train_rows(job.rows))
    (job.folder / "metrics.json").write_text(json.dumps({"words": words}))
    return {"words": words}


def trainer_of(job):
    raise NotImplementedError


def memory(setting):
    return None, [moment("counting", weights=2**30)], ["counts and holds nothing else"]


def section(left):
    return [Section("Sentences", (Sentences((f"{left.mapping('metrics.json')['words']} words",)),))]


def preflight(stage):
    if stage.blocks["train"]["max_length"] > 64:
        raise fail(stage.where, "it counts no further than 64", "Write less.")
"""

COUNT = Kind(
    about="how many tokens the rows have",
    make="ft.stages.count:make",
    blocks={"train": Owner("ft.stages.count:CountOptions"), "rows": Owner("ft.encode.prepare:RowOptions")},
    leaves=frozenset({"metrics"}),
    memory="ft.stages.count:memory",
    display=Display(sections=("ft.stages.count:section",), headline="words"),
    trainer="ft.stages.count:trainer_of",
    unsupported={"ddp": Refused("counts would differ", "Use one process.")},
    rows="conversations",
    required=("train.max_length",),
    defaults={"rows": {}},
    preflight="ft.stages.count:preflight",
)


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in the folder of stages, one entry in the table."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "count.py").write_text(NEW_STAGE, encoding="utf-8")
    monkeypatch.setattr(ft.stages, "__path__", [*ft.stages.__path__, str(tmp_path / "stages")])
    monkeypatch.setitem(STAGES, "count", COUNT)


def recipe_of(folder: Path, base: Path, data: Path, **train: int) -> Path:
    stage = {"kind": "count", "data": [{"path": str(data)}], "train": {"max_length": 64, **train}}
    return tiny.recipe(folder, [stage], model=str(base))


@pytest.mark.usefixtures("counts")
def test_a_new_kind_is_planned_run_and_shown_with_a_section_of_its_own(tmp_path: Path, base: Path, data: Path):
    file, runs = recipe_of(tmp_path, base, data), tmp_path / "runs"
    there = tiny.planned(file, runs)
    assert (there.stage("count").state, there.stage("count").why) == ("absent", "not run yet")
    words = tiny.make(there, "count").done["numbers"]["words"]
    assert words > 32
    there = tiny.planned(file, runs)
    assert there.stage("count").state == "done"
    shown = gather_report(of_plan(there)).stages[0]
    assert shown.number is not None
    assert (shown.number.name, shown.number.value) == ("words", words)
    assert "Sentences" in [section.title for section in shown.sections]


@pytest.mark.usefixtures("counts")
def test_a_new_kind_has_its_estimate_its_launches_and_its_checks(tmp_path: Path, base: Path, data: Path):
    there = tiny.planned(recipe_of(tmp_path, base, data), tmp_path / "runs")
    stage = there.recipe.stage("count")
    fit = stage_fit(Setting(there.recipe, stage, Gpu("tiny", 1), Sharding()))
    assert fit.peak.parts["weights"] == GIB
    assert not fit.fits(Gpu("tiny", 1))
    assert "| `count` | yes | no | yes | yes | yes |" in support_table(STAGES)
    with pytest.raises(UserError, match=r"'count' \(`count`\) cannot run under ddp .*: counts would differ"):
        preflight(there.stages, Launch(way="ddp", processes=2))
    long = tiny.planned(recipe_of(tmp_path, base, data, max_length=65), tmp_path / "runs")
    with pytest.raises(UserError, match="it counts no further than 64"):
        preflight(long.stages)


def test_a_new_format_is_one_function_and_one_line(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    def slash(row):
        """`line`: what is asked and what is answered, with a slash between."""
        asked, answered = row["line"].split(" / ")
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}

    monkeypatch.setitem(FORMATS, "slash", slash)
    data = tmp_path / "lines.jsonl"
    data.write_text("".join(json.dumps({"line": f"{n} sky? / blue"}) + "\n" for n in range(8)), encoding="utf-8")
    stage = {**tiny.sft(data), "data": [{"path": str(data), "format": "slash"}]}
    there = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs")
    tiny.job(there, "sft")
    prepared = tiny.planned(tmp_path / "tiny.yaml", tmp_path / "runs").stage("sft").prepared
    assert prepared is not None
    assert prepared["train"]["rows"] == 8


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trainer": ""}, "trains: say its trainer"),
        ({"unsupported": None}, "which launches are unsupported"),
        ({"memory": "somewhere"}, "'somewhere' is no 'module:function'"),
        ({"required": ("trian.max_length",)}, "has no block trian"),
        ({"objectives": ("helpful",)}, "reads no input helpful"),
    ],
)
def test_a_kind_that_forgets_something_is_refused_as_it_is_written(change, problem):
    with pytest.raises(ValueError, match=problem):
        replace(COUNT, **change)


@pytest.mark.parametrize("name", ["about", "make", "blocks", "leaves", "memory", "display"])
def test_no_kind_is_without_what_every_other_room_asks_for(name):
    given = {key: value for key, value in vars(COUNT).items() if key != name}
    with pytest.raises(TypeError, match=name):
        Kind(**given)


@pytest.mark.parametrize("name", STAGES)
def test_what_stands_in_for_a_method_is_a_block_that_the_kind_takes(name: str):
    for method, stand_in in STAGES[name].stands_in_for.items():
        assert method not in STAGES, "it has a kind of its own"
        problems = Problems()
        if stand_in.train:
            check(STAGES[name].blocks["train"], _block(stand_in.train), "train", problems, [])
        assert list(problems) == [], method


def _block(values: Mapping[str, Any]) -> Block:
    """As a recipe's, of lists that know their lines."""
    mark = Mark("x", 1)
    lists = {
        key: Items(value, [mark] * len(value), mark) if isinstance(value, list) else value
        for key, value in values.items()
    }
    return Block(lists, dict.fromkeys(lists, mark), mark)
