"""What a crash, a disk or a copy can do to a runs folder, asked without training: tests/faults/damage.py trains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from ft.encode.prepare import eval_rows, rows_damage, rows_folder, train_rows
from ft.files import read_json
from ft.recipe import Verdicts, read
from ft.results.store import Plan
from ft.run.rows import prepare_rows
from ft.stages import STAGES

Damage = Callable[[Path], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def say(text: str) -> Damage:
    return lambda file: file.write_text(text, encoding="utf-8")


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x", encoding="utf-8")


def become_a_loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    file = tiny.recipe(folder, [tiny.sft(data, rows={"eval_fraction": 0.2})], model=str(base))
    prepare(tiny.planned(file, folder / "runs"))
    return file


@pytest.fixture
def plan(file: Path, tmp_path: Path) -> Plan:
    """The recipe with its rows prepared, which a test may damage."""
    shutil.copytree(file.parent / "runs", tmp_path / "runs")
    return tiny.planned(file, tmp_path / "runs")


def prepare(plan: Plan) -> Path:
    """The folder of the rows, prepared where they are not."""
    stage = plan.stage("sft")
    prepare_rows(plan, stage)
    assert stage.rows_key is not None
    return rows_folder(plan.runs, stage.rows_key)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".arrow"}


ROWS = [(name, damage) for name in ("train.arrow", "eval.arrow") for damage in (cut, empty, flip_a_bit, Path.unlink)]
ROWS += [("stats.json", say(text)) for text in ("", "{", "[]", "{}", "null", '"x"', '{"train": null}')]
ROWS += [("stats.json", Path.unlink), ("manifest.json", empty), ("", become_a_file), ("", become_a_loop)]


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize(("name", "damage"), ROWS)
def test_damaged_rows_are_told_of_and_prepared_again(name, damage, manifest, plan, file, capfd):
    folder = prepare(plan)
    whole = contents(folder)
    if not manifest:  # as rows were left before there were any
        (folder / "manifest.json").unlink()
        assert rows_damage(folder) == ""
    if (damage is flip_a_bit and not manifest) or (name == "manifest.json" and not manifest):
        return  # which nothing could tell
    damage(folder / name if name else folder)
    assert tiny.planned(file, plan.runs).stage("sft").state == "absent"  # a plan bears it
    assert contents(prepare(plan)) == whole
    assert "prepared again" in capfd.readouterr().err
    assert len(train_rows(folder)) + len(eval_rows(folder) or []) == 32


CACHES = [(name, text) for name in ("hashes.json", "checked.json") for text in ("", "{", "[]", '"x"', "null", "5")]


@pytest.mark.parametrize(("name", "text"), CACHES)
def test_a_damaged_cache_only_costs_time(name, text, plan, file):
    cache = plan.runs / ".cache" / name
    cache.write_text(text, encoding="utf-8")
    assert tiny.planned(file, plan.runs).stage("sft").fingerprint == plan.stage("sft").fingerprint


@pytest.mark.parametrize("value", [None, 5, [], [1, 2, None], {}, "x"])
def test_no_odd_value_of_a_cache_becomes_a_hash(value, plan, file):
    cache = plan.runs / ".cache" / "hashes.json"
    known = read_json(cache)
    odd = {path: [*entry[:2], value] if value is None else value for path, entry in known.items()}
    cache.write_text(json.dumps(odd), encoding="utf-8")
    assert tiny.planned(file, plan.runs).stage("sft").fingerprint == plan.stage("sft").fingerprint


@pytest.mark.parametrize("value", [None, 5, [], "x", {}, {"zzz": 1}, {"values": {}, "digest": 3}])
def test_no_odd_value_of_a_cache_becomes_a_block(value, plan, file):
    cache = plan.runs / ".cache" / "checked.json"
    recipe = read(file, STAGES, (), Verdicts(cache))
    cache.write_text(json.dumps(dict.fromkeys(read_json(cache), value)), encoding="utf-8")
    assert read(file, STAGES, (), Verdicts(cache)).stages == recipe.stages


@pytest.mark.parametrize("name", ["hashes.json", "checked.json"])
def test_a_cache_that_cannot_be_written_stops_nothing(name, plan, file):
    cache = plan.runs / ".cache" / name
    cache.unlink(missing_ok=True)
    cache.mkdir()
    (cache / "x").mkdir()
    assert tiny.planned(file, plan.runs).stage("sft").fingerprint == plan.stage("sft").fingerprint


@pytest.mark.parametrize("text", ["", "{", "null", "{}", "[]", '"x"', '{"numbers": null}'])
def test_a_broken_done_file_is_said_and_the_stage_continues(text, plan, file):
    folder = plan.stage("sft").folder
    folder.mkdir(parents=True)
    (folder / "done.json").write_text(text, encoding="utf-8")
    stage = tiny.planned(file, plan.runs).stage("sft")
    assert (stage.state, stage.why) == ("unfinished", "done.json is broken; continues")


@pytest.mark.parametrize("name", ["key.json", "job.json"])
@pytest.mark.parametrize("text", ["", "[]", '"x"', '{"data": 5, "inputs": 3, "model": []}'])
def test_a_broken_file_of_an_interrupted_stage_stops_no_plan(name, text, plan, file):
    folder = plan.stage("sft").folder
    folder.mkdir(parents=True)
    (folder / name).write_text(text, encoding="utf-8")
    assert tiny.planned(file, plan.runs).stage("sft").why == "was interrupted; continues"
    assert tiny.planned(file, plan.runs, ["sft.train.learning_rate=0.5"]).stage("sft").state == "absent"
