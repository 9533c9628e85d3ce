"""Recipes by name: what is there comes first, then what ft brings along; and that it brings along all it needs."""

from __future__ import annotations

import shutil
import tomllib
from glob import glob
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.recipe.find import BUNDLED, bundled_recipes, is_recipe, recipe_argument, recipe_file, recipe_summary

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("stages: []\n", encoding="utf-8")


def test_a_name_means_a_path_then_a_recipe_of_this_folder_then_one_that_comes_with_ft():
    assert recipe_file("tiny/chat") == ROOT / "recipes/tiny/chat.yaml"
    write("recipes/tiny/chat.yaml")
    assert recipe_file("tiny/chat") == Path("recipes/tiny/chat.yaml")
    write("tiny/chat")
    assert recipe_file("tiny/chat") == Path("tiny/chat")


@pytest.mark.parametrize("name", ["recipes/tiny/chat.yaml", "tiny/chat.yaml", "recipes/tiny/chat"])
def test_the_names_of_the_documentation_are_right_in_any_folder(name: str):
    assert recipe_argument(recipe_file(name)) == "tiny/chat"


@pytest.mark.parametrize("name", ["../chat", "/chat", "owner/model", "rows.jsonl", "runs/tiny-chat"])
def test_what_names_no_recipe_is_none(name: str):
    write("chat.yaml")
    assert recipe_file(name) == Path(name)
    assert not is_recipe(name)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("tiny/chta", "Did you mean 'tiny/chat'"),
        ("my-chta", "Did you mean 'my-chat'?"),
        ("recipes/my-chta.yaml", "Did you mean 'my-chat.yaml'?"),
        ("sft-qlora", "Did you mean 'flan-t5-base/sft-qlora' or 'gemma3-4b/sft-qlora' or "),
        ("nothing", "`ft recipes` lists those that come with ft."),
    ],
)
def test_a_name_that_is_wrong_is_answered_with_those_near(name: str, fix: str):
    write("recipes/my-chat.yaml")
    refused = CliRunner().invoke(app, ["plan", name])
    assert str(refused.exception).startswith(f"{name}: no such recipe. {fix}")


def test_a_recipe_extends_one_that_comes_with_ft_by_its_name():
    Path("own.yaml").write_text("extends: tiny/dpo\nseed: 3\n", encoding="utf-8")
    assert [stage.name for stage in tiny.checked(Path("own.yaml")).stages][-3:] == ["dpo", "manners", "facts"]


def test_results_are_the_same_wherever_the_recipe_and_its_data_lie(tmp_path: Path):
    shutil.copytree(ROOT / "recipes/tiny", "package/bundle/recipes/tiny")
    shutil.copytree(ROOT / "data/tiny", "package/bundle/data/tiny", ignore=shutil.ignore_patterns("*.py"))
    for name in ("chat", "ppo"):
        plans = [
            tiny.planned(place / "recipes/tiny" / f"{name}.yaml", tmp_path / "runs")
            for place in (ROOT, Path("package/bundle"))
        ]
        assert [p.folder for p in plans[0].stages] == [p.folder for p in plans[1].stages]


def test_the_package_holds_all_recipes_and_their_data_but_not_what_wrote_the_data():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]

    def files(key: str) -> set[Path]:
        found = [glob(f"{ROOT}/src/ft/{pattern}", recursive=True) for pattern in setuptools[key]["ft"]]
        return {Path(file).resolve() for files in found for file in files}

    packaged = files("package-data") - files("exclude-package-data")
    needed = {file for folder in ("recipes", "data") for file in (ROOT / folder).rglob("*") if file.is_file()}
    assert {file for file in needed if not file.suffix.startswith(".py")} == needed & packaged


@pytest.mark.parametrize("name", bundled_recipes())
def test_recipes_that_come_with_ft_are_listed_with_what_they_make(name: str):
    listed = CliRunner().invoke(app, ["recipes", "--json"])
    assert name in listed.stdout
    assert recipe_summary(BUNDLED / f"{name}.yaml").endswith(".")
