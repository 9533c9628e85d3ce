"""A name means a path or an id of the Hub by one rule, whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.data.sources.read import Source, fingerprint, missing
from ft.errors import UserError
from ft.hub import local_path
from ft.models.identity import model_fingerprint
from ft.recipe import ModelSource
from ft.stages.judge import JudgeOptions
from ft.tools.chat import model_at

IDS = ("HuggingFaceH4/ultrachat_200k", "gpt2", "meta-llama/Llama-2-7b-hf", "owner/rows.v2")
ABSENT = (
    "rows.jsonl",
    "rows/Rows.JSONL.gz",
    "./rows",
    "../rows",
    "~/rows-of-nobody",
    "/data/rows",
    "a/b/c",
    "here/absent",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands, with one folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    return tmp_path


def complaint(work: Callable[[], object]) -> str:
    """The error it ends with, nothing where it does not."""
    try:
        work()
    except (UserError, ValueError) as error:
        return str(error)
    return ""


def recipe(name: str, **keys: str) -> Callable[[], object]:
    """Reads a recipe beside `here` whose model, or whose data, is called so."""
    Path("rows.csv").write_text("prompt,completion\na,b\n", encoding="utf-8")
    sft = {"kind": "sft", "data": keys.get("data", "./rows.csv"), "train": tiny.TRAIN}
    file = tiny.recipe(Path(), [sft], model=keys.get("model", "gpt2"))
    return lambda: tiny.checked(file)


def new(name: str) -> str:
    file = tiny.recipe(Path(), [tiny.sft(tiny.rows(Path("some.jsonl")))], model="gpt2")
    return str(CliRunner().invoke(app, ["new", "mine", "--from", str(file), "--data", name]).exception)


@pytest.mark.parametrize("name", IDS)
def test_an_id_of_the_hub_is_one_for_every_reader(name: str):
    assert local_path(name) is None
    assert ModelSource(name).folder is None
    assert model_fingerprint(ModelSource(name), None) == {"path": name, "revision": None}
    assert fingerprint(Source(name), None)["path"] == name
    assert missing(Source(name), "w") is None
    assert complaint(recipe(name, model=name)) == ""
    assert complaint(recipe(name, data=name)) == ""
    assert model_at(name).model == ModelSource(name)
    assert complaint(lambda: JudgeOptions(kind="model", prompt="x.yaml", model=name)) == ""
    assert f"Couldn't reach '{name}' on the Hub" in new(name)


@pytest.mark.parametrize("name", ABSENT)
def test_a_path_to_nothing_is_one_for_every_reader(name: str):
    assert local_path(name) == Path(name).expanduser()
    assert "no such file or folder" in complaint(lambda: fingerprint(Source(name), None))
    assert missing(Source(name), "w") is not None
    assert "no model in" in complaint(recipe(name, model=name))
    assert "no file" in complaint(recipe(name, data=name))
    assert "no such folder" in complaint(lambda: model_at(name))
    assert "write a Hub id" in complaint(lambda: JudgeOptions(kind="model", prompt="x.yaml", model=name))
    assert "no file or folder" in new(name)


def test_what_is_there_is_a_path_whatever_it_is_called(base: Path, here: Path):
    (here / "gpt2").symlink_to(base)
    assert local_path("gpt2") == Path("gpt2")
    assert model_at("gpt2").folder == Path("gpt2")
    assert model_fingerprint(ModelSource("gpt2"), None) == model_fingerprint(ModelSource(str(base)), None)


def test_a_path_is_relative_to_whoever_wrote_it(here: Path):
    assert local_path("here", here / "recipes") is None
    assert local_path("./here", here / "recipes") == here / "recipes" / "here"
    assert local_path(str(here), here / "recipes") == here
