"""`extends` and `--set`: what wins, what stays, and which folder a path is relative to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.recipe.conftest import GOOD, HEAD, SFT

from ft.errors import Problems, UserError
from ft.recipe import Recipe, read
from ft.recipe.merge import changes, read_sets, read_tree
from ft.stages import STAGES
from wording import Like

Messages = Callable[..., str]
Read = Callable[..., Recipe]


@pytest.fixture
def base(folder: Path) -> Path:
    """A recipe in a folder beside, with rows and a template of its own."""
    there = folder / "base"
    there.mkdir()
    (there / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    (there / "own.jinja").write_text("{{ messages }}", encoding="utf-8")
    file = there / "base.yaml"
    file.write_text(
        "name: parent\nseed: 3\nchat_template: own.jinja\n"
        + GOOD.replace("64", "64, max_steps: 5")
        + "    lora: {r: 4}\n",
        encoding="utf-8",
    )
    return file


def child(*stages: str) -> str:
    return "extends: base/base.yaml\n" + ("stages:\n" + "".join(stages) if stages else "")


def tree(text: str, *sets: str) -> Any:
    Path("x.yaml").write_text(text, encoding="utf-8")
    problems = Problems()
    found = read_tree(Path("x.yaml"), sets, problems)
    problems.raise_any()
    return found


@pytest.mark.usefixtures("base")
def test_a_recipe_that_extends_another_takes_it_over_key_by_key(recipe: Read):
    found = recipe(child("  - {kind: sft, train: {max_steps: 9, learning_rate: 1e-3}}\n"))
    assert found.seed == 3
    assert found.stage("sft").blocks["train"] == {"max_length": 64, "max_steps": 9, "learning_rate": 1e-3}
    assert found.stage("sft").blocks["lora"] == {"r": 4}


@pytest.mark.usefixtures("base")
def test_a_fork_has_a_name_of_its_own(recipe: Read, folder: Path):
    assert recipe(child()).name == f"{folder.name}-x"


def test_paths_stay_relative_to_the_recipe_that_wrote_them(recipe: Read, base: Path, folder: Path):
    found = recipe(child("  - {kind: sft, eval_data: rows.jsonl}\n"))
    assert found.stage("sft").data[0]["path"] == "base/rows.jsonl"
    assert found.stage("sft").eval_data[0]["path"] == "rows.jsonl"
    assert found.chat_template == str(base.parent / "own.jinja")


@pytest.mark.usefixtures("base")
def test_a_null_takes_a_block_away(recipe: Read):
    assert "lora" not in recipe(child("  - {kind: sft, lora: null}\n")).stage("sft").blocks


@pytest.mark.usefixtures("base")
def test_a_new_stage_comes_last_and_lists_are_replaced(recipe: Read):
    found = recipe(child(SFT.replace("sft\n", "sft\n    name: two\n    init: $sft\n")))
    assert [stage.name for stage in found.stages] == ["sft", "two"]
    assert tree(child("  - {kind: sft, data: [a, b]}\n"))["stages"][0]["data"] == ["a", "b"]


@pytest.mark.usefixtures("base")
def test_a_second_stage_of_one_name_is_not_merged_away(messages_of: Messages):
    assert messages_of(child("  - {kind: sft}\n", SFT)) == Like("x.yaml:4: … 'sft' … `name:` …")


def test_a_problem_names_the_file_that_wrote_the_key(messages_of: Messages, base: Path):
    base.write_text(base.read_text(encoding="utf-8").replace("max_steps: 5", "max_stepz: 5"), encoding="utf-8")
    assert messages_of(child("  - {kind: sft, train: {learning_rate: x}}\n")) == (
        Like("x.yaml:3: train.learning_rate … 'x' …\nbase/base.yaml:8: … 'max_stepz' … 'max_steps' …")
    )


@pytest.mark.usefixtures("base")
def test_one_key_of_a_model_that_is_a_name_can_be_overridden(recipe: Read):
    assert recipe("extends: base/base.yaml\nmodel: {dtype: bfloat16}\n").model.path == "hub/name"
    assert recipe("extends: base/base.yaml\n", ["model.dtype=bfloat16"]).model.dtype == "bfloat16"


def test_recipes_extend_over_several_steps(folder: Path):
    (folder / "a.yaml").write_text("seed: 1\nname: a\nmodel: a/a\n", encoding="utf-8")
    (folder / "b.yaml").write_text("extends: a.yaml\nseed: 2\n", encoding="utf-8")
    assert dict(tree("extends: b.yaml\nname: c\n")) == {"seed": 2, "model": "a/a", "name": "c"}


EXTENDS = {
    "a recipe that is not there": (
        "extends: qqq/z.yaml\n",
        "x.yaml:1: no recipe qqq/z.yaml. The path is relative to this file.",
    ),
    "a recipe with a near name": ("extends: y.yml\n", Like("x.yaml:1: … y.yml … 'y.yaml' …")),
    "a folder": ("extends: .\n", "x.yaml:1: no recipe . The path is relative to this file."),
    "a list": ("extends: [a]\n", Like("x.yaml:1: extends … `extends: other.yaml` …")),
    "itself": ("extends: x.yaml\n", Like("x.yaml:1: x.yaml extends …")),
    "what extends it": ("seed: 1\nextends: y.yaml\n", Like("x.yaml:2: x.yaml extends …")),
}


@pytest.mark.parametrize(("text", "expected"), EXTENDS.values(), ids=EXTENDS)
def test_a_wrong_extends_is_said_with_its_line(messages_of: Messages, folder: Path, text: str, expected: str):
    (folder / "y.yaml").write_text("extends: x.yaml\n", encoding="utf-8")
    assert messages_of(text) == expected


def test_faults_found_before_a_file_that_cannot_be_read_are_said_too(messages_of: Messages, folder: Path):
    (folder / "y.yaml").write_text("a: [\n", encoding="utf-8")
    assert messages_of("extends: y.yaml\nmodel: a\nmodel: b\n") == (
        Like("x.yaml:3: 'model' … written … 2 …\ny.yaml:1: … bracket opened …")
    )


def test_changes_say_what_a_fork_says_differently(folder: Path):
    (folder / "y.yaml").write_text(GOOD, encoding="utf-8")
    (folder / "x.yaml").write_text(
        "extends: y.yaml\nseed: 2\nstages: [{kind: sft, train: {max_length: 8}, data: [{path: other.jsonl}]}]\n",
        encoding="utf-8",
    )
    assert changes(Path("x.yaml"), [], Problems()) == [
        ("sft.data", "['rows.jsonl']", ""),
        ("sft.train.max_length", "64", "8"),
        ("sft.data.0.path", "", "other.jsonl"),
        ("seed", "", "2"),
    ]


def test_changes_take_in_what_is_set(folder: Path):
    (folder / "y.yaml").write_text(GOOD, encoding="utf-8")
    (folder / "x.yaml").write_text("extends: y.yaml\nseed: 2\n", encoding="utf-8")
    learning_rate = ("sft.train.learning_rate", "", "2e-05")
    assert changes(Path("x.yaml"), ["sft.train.learning_rate=2e-5"], Problems()) == [learning_rate, ("seed", "", "2")]
    assert changes(Path("y.yaml"), ["sft.train.learning_rate=2e-5"], Problems()) == [learning_rate]


def test_what_is_set_can_be_written_down(folder: Path):
    (folder / "x.yaml").write_text(GOOD, encoding="utf-8")
    tree = read_sets(Path("x.yaml"), ["sft.train.max_steps=3", "seed=4", "model.dtype=bfloat16", "chat_template=null"])
    assert tree == {
        "seed": 4,
        "model": {"dtype": "bfloat16"},
        "chat_template": None,
        "stages": [{"name": "sft", "train": {"max_steps": 3}}],
    }
    with pytest.raises(UserError) as error:
        read_sets(Path("x.yaml"), ["sft.data.0.path=y.jsonl", "stf.train.max_steps=3"])
    assert str(error.value) == Like(
        "--set sft.data.0.path: one of a list …\n--set stf.train.max_steps: … 'stf' … 'sft' …"
    )


def test_set_overrides_one_key_by_the_stage_s_name(recipe: Read):
    found = recipe(GOOD, ["sft.train.learning_rate=2e-5", "sft.train.eval_strategy=no", "seed=9"])
    assert found.seed == 9
    assert found.stage("sft").blocks["train"] == {"max_length": 64, "learning_rate": 2e-5, "eval_strategy": "no"}


def test_set_makes_the_block_that_is_not_there(recipe: Read):
    assert recipe(GOOD, ["sft.lora.r=4"]).stage("sft").blocks["lora"] == {"r": 4}


def test_set_takes_any_yaml_value_and_words_that_are_none(recipe: Read):
    found = recipe(GOOD, ["sft.lora={r: 4, target_modules: [q_proj]}", "sft.train.run_name=a: b: c"])
    assert found.stage("sft").blocks["lora"] == {"r": 4, "target_modules": ["q_proj"]}
    assert found.stage("sft").blocks["train"]["run_name"] == "a: b: c"


def test_set_reaches_one_source_however_data_is_written(recipe: Read):
    for written in ("[rows.jsonl]", "rows.jsonl", "{path: rows.jsonl}", "[{path: rows.jsonl}]"):
        found = recipe(GOOD.replace("[rows.jsonl]", written), ["sft.data.0.weight=2"])
        assert found.stage("sft").data[0]["weight"] == 2.0


def test_set_of_one_stage_leaves_another_that_shares_an_anchor(recipe: Read):
    text = (
        HEAD
        + SFT.replace("sft\n", "sft\n    lora: &lora {r: 4}\n")
        + SFT.replace("sft\n", "sft\n    name: b\n    lora: *lora\n")
    )
    found = recipe(text, ["b.lora.r=9"])
    assert [stage.blocks["lora"]["r"] for stage in found.stages] == [4, 9]


def test_a_path_in_set_is_relative_to_where_the_user_stands(
    recipe: Read, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "other.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "x.yaml").write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(folder / "sub")
    for words in ("sft.data.0=deep/other.jsonl", "sft.data=[deep/other.jsonl]", "sft.data.0.path=deep/other.jsonl"):
        found = read(Path("../x.yaml"), STAGES, [words])
        assert found.stage("sft").data[0]["path"] == "deep/other.jsonl"


SETS = {
    "nothing": "--set nothing: this sets nothing. Write `--set stage.block.key=value`.",
    "=5": "--set =5: this sets nothing. Write `--set stage.block.key=value`.",
    "stf.train.max_steps=3": "--set stf.train.max_steps: no stage 'stf'. Did you mean 'sft'?",
    "zzz.train.max_steps=3": "--set zzz.train.max_steps: no stage 'zzz'. Stages: sft.",
    "sft=5": "--set sft: there is nothing to set at 'sft'. Stages: sft.",
    "sft.train.max_stepz=3": "--set sft.train.max_stepz: SFTConfig has no field 'max_stepz'. Did you mean 'max_steps'?",
    "sft.data.7.path=x": (
        "--set sft.data.7.path: no '7' there. Name a stage, then its block and key: `sft.train.max_steps=10`."
    ),
    "sft.data.0=./zzz.csv": ("--set sft.data.0: no file zzz.csv. The path is relative to the folder you are in."),
    "model=./z": "--set model: no model in FOLDER/z. The path is relative to the folder you are in.",
    "sft.lora={r: 1, r: 2}": "--set sft.lora: 'r' is written twice. Keep one.",
    "seed=!!int x": "--set seed: 'x' is no int. Write another value.",
}


@pytest.mark.parametrize(("words", "expected"), SETS.items(), ids=SETS)
def test_a_wrong_set_is_said_with_its_key(messages_of: Messages, words: str, expected: str):
    assert messages_of(GOOD, [words]) == expected


def test_a_wrong_set_does_not_print_a_secret(messages_of: Messages):
    assert messages_of(GOOD, ["sft.train.hub_token=hf_abcdefghijklmnopqrstuvwxyz"]) == (
        Like(
            "--set sft.train.hub_token … train.hub_token … (HF_TOKEN) …\n"
            "--set sft.train.hub_token … train.hub_token … HF_TOKEN …"
        )
    )


@pytest.mark.parametrize("stages", ["stages:\n", "stages: 5\n", "stages: {kind: sft}\n"])
def test_set_on_a_recipe_without_a_list_of_stages_is_no_crash(folder: Path, stages: str):
    with pytest.raises(UserError, match=r"--set sft\.train\.max_steps: no stage 'sft'"):
        tree("model: a/b\n" + stages, "sft.train.max_steps=5")
