"""Files of results that were edited, cut or damaged: named as such, and the rest is shown."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft.report.page import comparison_page, report_page
from ft.report.run import of_folder

OLD = Path(__file__).parents[2] / "data" / "old_runs"
ODD: list[Any] = [None, 5, -1, "x", [], {}, [1, 2], {"a": 1}, True, 1e308, 10**400, "\ud800", [None], {"a": {"b": []}}]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    shutil.copytree(OLD, tmp_path / "runs")
    return tmp_path / "runs"


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from paths(one, (*path, key))


def damage(file: Path, chosen: random.Random) -> None:
    """Put something odd somewhere into a file of JSON, or into one line of it."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text("utf-8")]
    place = chosen.randrange(len(lines))
    value = json.loads(lines[place])
    *outer, last = chosen.choice([*paths(value)])
    inside = value
    for key in outer:
        inside = inside[key]
    inside[last] = chosen.choice(ODD)
    lines[place] = json.dumps(value)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_value_never_stops_a_page_or_the_list_of_runs(runs: Path, seed: int):
    chosen = random.Random(seed)
    for file in chosen.sample(sorted(runs.glob("tiny-chat/*/*.json*")), 4):
        damage(file, chosen)
    run = of_folder(runs / "tiny-chat")
    assert "questions" in report_page(run).encode().decode()
    assert comparison_page([run, run]).encode()
    for words in (["runs"], ["runs", "--json"]):
        done = CliRunner().invoke(app, [*words, "--runs", str(runs)])
        assert done.exception is None, done.exception


def test_what_is_damaged_is_named_and_the_rest_is_shown(runs: Path):
    file = next(runs.glob("tiny-chat/questions-*/job.json"))
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "inputs": 5, "blocks": ["x"]}), encoding="utf-8")
    page = report_page(of_folder(runs / "tiny-chat"))
    assert "job.json: inputs is not as a stage writes it and was left out." in page
    assert "job.json: blocks is not as a stage writes it and was left out." in page
    assert "accuracy" in page


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "5", "null", "[" * 50_000])
@pytest.mark.parametrize("name", ["key.json", "done.json"])
def test_one_broken_file_does_not_hide_the_other_results(runs: Path, name: str, text: str):
    next(runs.glob(f"tiny-chat/questions-*/{name}")).write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["runs", "--json", "--runs", str(runs)])
    assert "sft" in [result["stage"] for result in json.loads(done.stdout)]
    assert "eval loss" in report_page(of_folder(runs / "tiny-chat"))
