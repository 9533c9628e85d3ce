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
        Like("x.yaml:2: 'model' … written … 1 …"),
    ),
    "a tab before a list": (
        "model: a/b\nstages:\n\t- kind: sft\n",
        Like("x.yaml:3: … indents … Indent …"),
    ),
    "a tab before a key": (
        "model: a/b\nstages:\n  - kind: sft\n\ttrain: {}\n",
        Like("x.yaml:4: … indents … Indent …"),
    ),
    "an anchor that is nowhere": (
        "model: *base\n",
        Like("x.yaml:1: … anchor '&base' … '&' …"),
    ),
    "an anchor misspelt": ("a: &lora 5\nmodel: *lara\n", "x.yaml:2: no anchor '&lara' above. There are: lora."),
    "an anchor inside itself": (
        "model: a/b\nstages: &a\n  - *a\n",
        Like("x.yaml:2: … anchor contains …"),
    ),
    "merging a number": (
        "model: a/b\n<<: 5\n",
        Like("x.yaml:2: … expected … indentation …"),
    ),
    "an empty file": ("", Like("x.yaml:1: … `model:` … `stages:` …")),
    "only a comment": ("# later\n", Like("x.yaml:1: … `model:` … `stages:` …")),
    "a list": ("- kind: sft\n", Like("x.yaml:1: … `model:` … `stages:` …")),
    "a word": ("hello\n", Like("x.yaml:1: … `model:` … `stages:` …")),
    "two documents": (
        "model: a/b\n---\nmodel: c\n",
        Like("x.yaml:2: … second document … `---` …"),
    ),
    "a Python tag": (
        "model: !!python/object/apply:os.system ['ls']\n",
        Like("x.yaml:1: … !!python/object/apply:os.system … allowed …"),
    ),
    "a tag of one's own": ("model: !mine x\n", Like("x.yaml:1: … !mine … allowed …")),
    "a set": ("model: !!set {a, b}\n", Like("x.yaml:1: … !!set … allowed …")),
    "bytes": ("model: !!binary aGVsbG8=\n", Like("x.yaml:1: … !!binary … allowed …")),
    "a date": ("seed: !!timestamp 2001-01-01\n", Like("x.yaml:1: … !!timestamp … allowed …")),
    "a tag that lies": ("model: a\nseed: !!int abc\n", Like("x.yaml:2: 'abc' … another …")),
    "a truth that is none": ("seed: !!bool abc\n", Like("x.yaml:1: 'abc' … another …")),
    "an endless number": (f"seed: {'9' * 5000}\n", Like(f"x.yaml:1: '{'9' * 40}' … Write another …")),
    "a byte that is not UTF-8": (
        b"model: a/b\n# caf\xe9\n",
        Like("x.yaml:2: … 0xe9 … UTF-8 … UTF-8 …"),
    ),
    "UTF-16": ("model: a/b\n".encode("utf-16"), "x.yaml: this is UTF-16 text. Save the file as UTF-8."),
    "a control character": (b"seed: 1\nmodel: a\x00b\n", "x.yaml:2: the character '\\x00' is not allowed. Remove it."),
    "a quote left open": (
        "seed: 1\nmodel: 'a\nstages: []\n",
        Like("x.yaml:2: … bracket opened …"),
    ),
    "a bracket left open": (
        "seed: 1\nstages: [{kind: sft}\n",
        Like("x.yaml:2: … bracket opened …"),
    ),
    "a colon too many": (
        "model: a: b\n",
        Like("x.yaml:1: … mapping … indentation …"),
    ),
    "a key less indented than its stage": (
        "model: a/b\nstages:\n  - kind: sft\n   train: {}\n",
        Like("x.yaml:4: … '<block mapping start>' … indentation …"),
    ),
    "brackets without end": (
        "model: " + "[" * 3000 + "]" * 3000 + "\n",
        Like("x.yaml:1: … 32 blocks … flatter …"),
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
