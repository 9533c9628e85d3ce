"""Blocks against the classes that own them, and what is remembered of a block found right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.errors import Problems
from ft.recipe import Owner, Recipe, Verdicts, build
from ft.recipe.check import check
from ft.recipe.yaml import Block, Mark
from ft.stages import STAGES
from wording import Like

Read = Callable[..., Recipe]


class Shape(Enum):
    ROUND = "round"
    SQUARE = "square"


@dataclass
class Nested:
    rate: float = 0.5
    counted: int = field(default=0, init=False)


@dataclass
class Owned:
    """A class with annotations of every sort that the libraries use."""

    number: int = 0
    share: float = 0.0
    maybe: int | None = None
    either: int | str | None = None
    switch: bool = False
    switch_or_word: bool | Literal["auto"] = False
    words: list[str] | str | None = None
    shape: Shape = Shape.ROUND
    late: "Unknown | None" = None  # type: ignore[name-defined]  # noqa: F821, UP037
    anything: Any = None
    nested: Nested | None = None


OWNED = Owner(f"{__name__}:Owned")


def checked(values: dict[str, Any], owner: Owner = OWNED) -> tuple[dict[str, Any], list[str]]:
    mark = Mark("x.yaml", 1)
    problems = Problems()
    found = check(owner, Block(values, dict.fromkeys(values, mark), mark), "owned", problems, [])
    return found, [f"{problem.what}. {problem.fix}" for problem in problems]


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("number", "7", 7),
        ("number", 7.0, 7),
        ("share", 1, 1.0),
        ("share", "2e-5", 2e-5),
        ("maybe", None, None),
        ("either", "a", "a"),
        ("switch", "no", False),
        ("switch", "yes", True),
        ("switch_or_word", True, True),
        ("switch_or_word", "auto", "auto"),
        ("words", "q", "q"),
        ("words", ["q"], ["q"]),
        ("shape", "square", "square"),
        ("late", [1, {"a": 2}], [1, {"a": 2}]),
        ("anything", {"a": [1]}, {"a": [1]}),
        ("nested", {"rate": 1}, {"rate": 1.0}),
    ],
)
def test_a_value_is_read_as_its_annotation_says(key: str, value: Any, read: Any):
    found, problems = checked({key: value})
    assert problems == []
    assert found[key] == read
    assert type(found[key]) is type(read)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("number", 1.5, Like("owned.number … 1.5 … number …")),
        ("number", True, Like("owned.number … number …")),
        ("share", False, "owned.share is false. Write a number."),
        ("share", None, "owned.share is null. Write a number."),
        ("maybe", True, Like("owned.maybe … number …")),
        ("either", True, Like("owned.either … number …")),
        ("switch", 2, "owned.switch is 2. Write true or false."),
        ("switch_or_word", "auot", Like("owned.switch_or_word … 'auot' …")),
        ("words", 5, "owned.words is 5. Write a list or a word."),
        ("shape", "oval", "owned.shape is 'oval'. Write one of: round, square."),
        ("nmber", 1, "Owned has no field 'nmber'. Did you mean 'number'?"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_to_write(key: str, value: Any, message: str):
    assert checked({key: value})[1] == [message]


def test_checked_values_can_be_written_as_json_and_build_the_object():
    found, _ = checked({"shape": "square", "words": ["a"]})
    assert json.loads(json.dumps(found)) == found
    assert build(OWNED, found, number=3) == Owned(number=3, shape="square", words=["a"])  # type: ignore[arg-type]


def test_keys_without_default_are_all_named_in_the_order_of_the_class():
    assert checked({}, Owner(f"{__name__}:Needy"))[1] == [
        Like("… 'zebra' … `zebra: …` …"),
        Like("… 'ant' … `ant: …` …"),
        Like("… 'mole' … `mole: …` …"),
    ]


@dataclass
class Needy:
    zebra: int
    ant: int
    mole: int
    bee: int = 0


def test_whatever_a_class_raises_is_a_problem_and_no_crash():
    assert checked({"size": 3}, Owner(f"{__name__}:Moody"))[1] == ["Moody refuses owned: 3. "]


@dataclass
class Moody:
    size: int = 0

    def __post_init__(self) -> None:
        raise LookupError(self.size)


def test_checking_training_arguments_leaves_the_environment_as_it_was(
    recipe: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # set by torch itself when it is first asked to compile
    before = dict(os.environ)
    recipe(GOOD.replace("64}", "64, bf16: true, torch_compile: true, torch_compile_backend: eager}"))
    assert dict(os.environ) == before


@pytest.mark.parametrize("values", ["bf16: true", "fp16: true", "bf16: true, tf32: true", "optim: paged_adamw_8bit"])
def test_a_recipe_for_a_gpu_is_checked_without_one(recipe: Read, values: str):
    assert "use_cpu" not in recipe(GOOD.replace("64}", f"64, {values}}}")).stage("sft").blocks["train"]


# Verdicts


def remembered(file: Path) -> set[str]:
    return set(json.loads(file.read_text(encoding="utf-8")))


def test_a_block_found_right_is_remembered_and_its_library_is_not_imported_again(recipe: Read, folder: Path):
    recipe(GOOD, (), Verdicts(folder / "checked.json"))
    program = (
        "import sys; from pathlib import Path; from ft.recipe import Verdicts, read; from ft.stages import STAGES\n"
        "read(Path('x.yaml'), STAGES, (), Verdicts(Path('checked.json')))\n"
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_block_found_wrong_is_not_remembered(recipe: Read, folder: Path):
    from ft.errors import UserError

    with pytest.raises(UserError):
        recipe(GOOD.replace("64", "64, max_steps: x"), (), Verdicts(folder / "checked.json"))
    right = remembered(folder / "checked.json")
    recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert len(remembered(folder / "checked.json") - right) == 1  # the train block alone


def test_remembered_values_are_those_that_were_checked(recipe: Read, folder: Path):
    text = GOOD.replace("64}", "64, learning_rate: '2e-5', eval_strategy: no}")
    first = recipe(text, (), Verdicts(folder / "checked.json"))
    again = recipe(text, (), Verdicts(folder / "checked.json"))
    assert first.stage("sft").blocks == again.stage("sft").blocks
    assert again.stage("sft").blocks["train"]["learning_rate"] == 2e-5


@pytest.mark.parametrize("library", ["trl", "transformers"])
def test_another_version_of_a_library_lapses_what_was_remembered(
    recipe: Read, folder: Path, monkeypatch: pytest.MonkeyPatch, library: str
):
    from importlib.metadata import version

    recipe(GOOD, (), Verdicts(folder / "checked.json"))
    before = remembered(folder / "checked.json")
    monkeypatch.setattr("ft.recipe.check.version", lambda name: "0.0" if name == library else version(name))
    recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert len(remembered(folder / "checked.json") - before) == 1


def test_a_class_of_ft_that_inherits_from_a_library_lapses_with_it(monkeypatch: pytest.MonkeyPatch):
    before = STAGES["ppo"].blocks["train"].version
    monkeypatch.setattr("ft.recipe.check.version", lambda name: "0.0" if name == "trl" else "1.0")
    assert STAGES["ppo"].blocks["train"].version != before
    assert "0.0" in STAGES["ppo"].blocks["train"].version


@pytest.mark.parametrize("broken", ["", "{", "[]", "5"])
def test_a_broken_memory_only_costs_time(recipe: Read, folder: Path, broken: str):
    (folder / "checked.json").write_text(broken, encoding="utf-8")
    recipe(GOOD, (), Verdicts(folder / "checked.json"))
    assert remembered(folder / "checked.json")


def test_a_memory_that_cannot_be_written_only_costs_time(recipe: Read, folder: Path):
    (folder / "file").write_text("", encoding="utf-8")
    assert recipe(GOOD, (), Verdicts(folder / "file" / "checked.json")).stages
