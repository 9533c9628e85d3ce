"""What PyYAML is asked for: YAML 1.2 scalars, lines of keys, anchors, and each fault said with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.errors import Problems, UserError
from ft.recipe import ModelSource, Recipe, read
from ft.recipe.yaml import Block, parse_yaml
from ft.stages import STAGES
from wording import Like

Messages = Callable[..., str]


def value(text: str) -> Any:
    return parse_yaml(f"key: {text}\n", "x.yaml", Problems())["key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            (word, word)
            for word in ("no", "yes", "on", "off", "n", "No", "1_000", "12:30", "2024-01-31", "0x10", "0o10")
        ],
        *[("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'true'", "true")],
        *[("010", 10), ("-3", -3), ("+4", 4), ("0", 0)],
        *[("2e-5", 2e-5), ("2.0e-5", 2e-5), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-.5e3", -500.0)],
        *[(".inf", float("inf")), ("-.inf", float("-inf"))],
        *[("e5", "e5"), (".", "."), ("1.2.3", "1.2.3"), ("2e", "2e"), ("'2e-5'", "2e-5")],
    ],
)
def test_scalars_follow_yaml_1_2(text: str, expected: Any):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_not_a_number_is_a_float():
    assert value(".nan") != value(".nan")


def test_every_key_knows_its_line():
    block = parse_yaml("a: 1\nb:\n  c: {d: 2}\n  e:\n    - f\n    - {g: 3}\n", "x.yaml", Problems())
    assert [block.where("a"), block["b"].where("c"), block["b"]["c"].where("d")] == ["x.yaml:1", "x.yaml:3", "x.yaml:3"]
    assert [block["b"]["e"].where(0), block["b"]["e"].where(1)] == ["x.yaml:5", "x.yaml:6"]


def test_a_key_merged_from_an_anchor_keeps_the_line_of_the_anchor():
    block = parse_yaml("a: &base\n  r: 8\n  alpha: 16\nb:\n  <<: *base\n  r: 4\n", "x.yaml", Problems())
    assert dict(block["b"]) == {"alpha": 16, "r": 4}
    assert [block["b"].where("alpha"), block["b"].where("r")] == ["x.yaml:3", "x.yaml:6"]


def test_a_list_of_anchors_merges_with_the_first_winning():
    block = parse_yaml("a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b], z: 4}\n", "x.yaml", Problems())
    assert dict(block["c"]) == {"x": 1, "y": 3, "z": 4}


def test_what_an_alias_repeats_is_a_value_of_its_own():
    block = parse_yaml("a: &a {x: 1}\nb: *a\n", "x.yaml", Problems())
    block["b"]["x"] = 2
    assert block["a"]["x"] == 1


def test_a_copy_of_a_block_shares_nothing():
    block = parse_yaml("a: {b: [{c: 1}]}\n", "x.yaml", Problems())
    copy = block.copy()
    copy["a"]["b"][0]["c"] = 2
    assert block["a"]["b"][0]["c"] == 1


def test_a_byte_order_mark_is_no_part_of_the_first_key(recipe: Callable[..., Recipe]):
    assert recipe(("\ufeff" + GOOD).encode()).model == ModelSource("hub/name")


def test_windows_line_ends_count_as_one_line():
    block = parse_yaml("a: 1\r\nb: 2\r\n", "x.yaml", Problems())
    assert block.where("b") == "x.yaml:2"


FAULTS = {
    "a key written twice": (
        "model: a/b\nmodel: c/d\nstages: [{kind: sft, data: rows.jsonl, train: {max_length: 8}}]\n",
        "x.yaml:2: 'model' is written twice, first at line 1. Keep one.",
    ),
    "a tab before a list": (
        "model: a/b\nstages:\n\t- kind: sft\n",
        "x.yaml:3: a tab indents this line. Indent with spaces.",
    ),
    "a tab before a key": (
        "model: a/b\nstages:\n  - kind: sft\n\ttrain: {}\n",
        "x.yaml:4: a tab indents this line. Indent with spaces.",
    ),
    "an anchor that is nowhere": (
        "model: *base\n",
        "x.yaml:1: no anchor '&base' above. Write the value out, or name it with '&' first.",
    ),
    "an anchor misspelt": ("a: &lora 5\nmodel: *lara\n", "x.yaml:2: no anchor '&lara' above. There are: lora."),
    "an anchor inside itself": (
        "model: a/b\nstages: &a\n  - *a\n",
        "x.yaml:2: an anchor contains itself. Remove the alias that closes the circle.",
    ),
    "merging a number": (
        "model: a/b\n<<: 5\n",
        "x.yaml:2: this is not YAML: expected a mapping or list of mappings for merging, but found scalar. "
        "Look at quotes, colons and indentation here.",
    ),
    "an empty file": ("", "x.yaml:1: the recipe is empty. Start with `model:` and `stages:`."),
    "only a comment": ("# later\n", "x.yaml:1: the recipe is empty. Start with `model:` and `stages:`."),
    "a list": ("- kind: sft\n", "x.yaml:1: a recipe is a mapping of keys. Start with `model:` and `stages:`."),
    "a word": ("hello\n", "x.yaml:1: a recipe is a mapping of keys. Start with `model:` and `stages:`."),
    "two documents": (
        "model: a/b\n---\nmodel: c\n",
        "x.yaml:2: a second document begins here. A file holds one recipe: remove the `---`.",
    ),
    "a Python tag": (
        "model: !!python/object/apply:os.system ['ls']\n",
        "x.yaml:1: the tag !!python/object/apply:os.system is not allowed. Write plain YAML.",
    ),
    "a tag of one's own": ("model: !mine x\n", "x.yaml:1: the tag !mine is not allowed. Write plain YAML."),
    "a set": ("model: !!set {a, b}\n", "x.yaml:1: the tag !!set is not allowed. Write plain YAML."),
    "bytes": ("model: !!binary aGVsbG8=\n", "x.yaml:1: the tag !!binary is not allowed. Write plain YAML."),
    "a date": ("seed: !!timestamp 2001-01-01\n", "x.yaml:1: the tag !!timestamp is not allowed. Write plain YAML."),
    "a tag that lies": ("model: a\nseed: !!int abc\n", "x.yaml:2: 'abc' is no int. Write another value."),
    "a truth that is none": ("seed: !!bool abc\n", "x.yaml:1: 'abc' is no bool. Write another value."),
    "an endless number": (f"seed: {'9' * 5000}\n", f"x.yaml:1: '{'9' * 40}' is no int. Write another value."),
    "a byte that is not UTF-8": (
        b"model: a/b\n# caf\xe9\n",
        "x.yaml:2: byte 0xe9 is not UTF-8. Save the file as UTF-8.",
    ),
    "UTF-16": ("model: a/b\n".encode("utf-16"), "x.yaml: this is UTF-16 text. Save the file as UTF-8."),
    "a control character": (b"seed: 1\nmodel: a\x00b\n", "x.yaml:2: the character '\\x00' is not allowed. Remove it."),
    "a quote left open": (
        "seed: 1\nmodel: 'a\nstages: []\n",
        "x.yaml:2: a quote or bracket opened here is never closed. Close it.",
    ),
    "a bracket left open": (
        "seed: 1\nstages: [{kind: sft}\n",
        "x.yaml:2: a quote or bracket opened here is never closed. Close it.",
    ),
    "a colon too many": (
        "model: a: b\n",
        "x.yaml:1: this is not YAML: mapping values are not allowed here. Look at quotes, colons and indentation here.",
    ),
    "a key less indented than its stage": (
        "model: a/b\nstages:\n  - kind: sft\n   train: {}\n",
        "x.yaml:4: this is not YAML: expected <block end>, but found '<block mapping start>'. "
        "Look at quotes, colons and indentation here.",
    ),
    "brackets without end": (
        "model: " + "[" * 3000 + "]" * 3000 + "\n",
        "x.yaml:1: more than 32 blocks stand in each other. Write the recipe flatter.",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_yaml_is_said_with_its_line(messages_of: Messages, text: str | bytes, expected: str):
    assert messages_of(text) == expected


def test_a_key_that_is_a_list_is_refused(messages_of: Messages):
    text = "[a]: b\nmodel: a/b\nstages: [{kind: sft, data: rows.jsonl, train: {max_length: 8}}]\n"
    assert messages_of(text) == Like("x.yaml:1: … Write `key: value` …")


def test_a_missing_recipe_names_those_that_are_there(folder: Path):
    Path("chat.yaml").write_text("", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read(Path("chta.yaml"), STAGES)
    assert str(caught.value) == Like("chta.yaml: … recipe … chat.yaml …")


def test_a_folder_is_no_recipe(folder: Path):
    with pytest.raises(UserError) as caught:
        read(Path(), STAGES)
    assert str(caught.value) == Like(".: … folder … recipe's …")


def test_a_block_says_where_it_begins_for_keys_that_it_lacks():
    block = parse_yaml("\n\na: 1\n", "x.yaml", Problems())
    assert isinstance(block, Block)
    assert block.where("absent") == "x.yaml:3"
