"""A recipe of any size and form is read or refused in bounded time and memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest

from wording import Like

Messages = Callable[..., str]
TENFOLD = ", ".join(["*a{0}"] * 10)


def layers(first: str, item: str, count: int = 9) -> str:
    """Each line names the one above ten times: ten to the power of `count` values."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {item.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, count)]
    return "\n".join(lines) + "\n"


BOMBS = {
    "lists": layers("[x, x, x, x, x, x, x, x, x, x]", "[{}]"),
    "maps": layers("{x: 1}", "{{a: [{}]}}"),
    "merge keys": layers("{x: 1}", "{{<<: [{}]}}"),
    "data": "stages:\n- kind: sft\n  data:\n" + layers("[x, x]", "[{}]").replace("a", "- &a", 0),
    "very many keys": "".join(f"k{n}: 1\n" for n in range(20_001)),
    "a list of very many": f"stages: [{'1, ' * 20_001}]\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_recipe_that_stands_for_too_many_values_is_refused(messages_of: Messages, name: str):
    assert "values, aliases written out; at most 20,000 are read" in messages_of(BOMBS[name])


def test_a_recipe_that_is_too_large_is_refused_unread(messages_of: Messages):
    assert messages_of(f"name: {'x' * (1 << 20)}\n") == Like("x.yaml: it is larger than 1 MiB …")


@pytest.mark.parametrize("depth", [40, 400, 3_000, 100_000])
@pytest.mark.parametrize("ends", ["[]", "{}"])
def test_a_recipe_that_is_too_deep_is_refused(messages_of: Messages, depth: int, ends: str):
    key = "" if ends == "[]" else "k: "
    text = f"name: {(ends[0] + key) * depth}1{ends[1] * depth}\n"
    assert "more than 32 blocks stand in each other" in messages_of(text)


def test_an_anchor_that_contains_itself_is_refused(messages_of: Messages):
    assert messages_of("stages: &a [*a]\n") == Like("x.yaml:1: an anchor contains itself …")


SETS = {
    "many blocks": [f"{'a.' * 1_000}a=1"],
    "a deep value": [f"sft.train.max_steps={'[' * 3_000}"],
    "a bomb": [f"name={layers('[x, x]', '[{}]')}"],
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_is_too_deep_or_too_large_is_refused(messages_of: Messages, name: str):
    text = "model: hub/name\nstages:\n  - kind: sft\n    data: [rows.jsonl]\n"
    assert "--set" in messages_of(text, SETS[name])


WORDS: dict[str, tuple[str, Sequence[str]]] = {
    "half a character": ('seed: "\\ud800"', ()),
    "a key of half a character": ('"\\ud800": 1', ()),
    "NUL": ('model: "a\\0b"', ()),
    "a set that is no UTF-8": ("seed: 1", ["name=a\udc80"]),
    "a tag of a map on a word": ("stages: !!map word", ()),
    "a tag of a list on a word": ("stages: !!seq word", ()),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_no_file_can_hold_is_refused_where_it_stands(messages_of: Messages, name: str):
    text, sets = WORDS[name]
    assert messages_of(text, sets) == Like("--set name: … not allowed …" if sets else "x.yaml:1: …")


PATHS = ["~nobody-of-this-name/model", "/" + "x" * 300, "a/" * 3_000 + "b", "./" + "x" * 5_000]


@pytest.mark.parametrize("path", PATHS, ids=["home", "name", "depth", "length"])
@pytest.mark.parametrize("key", ["model: {}", "extends: {}", "chat_template: {}.jinja", "data: {}.jsonl"])
def test_a_path_that_no_file_system_has_is_no_file(messages_of: Messages, key: str, path: str):
    line = key.format(path)
    stage = "  - kind: sft\n    train: {max_length: 64}\n    " + (line if "data" in key else "data: [rows.jsonl]")
    text = f"model: hub/name\nstages:\n{stage}\n" if "data" in key else f"{line}\nstages:\n{stage}\n"
    assert "x.yaml:" in messages_of(text)


@pytest.mark.parametrize("key", ["name: {0}\nstages: []\n", "stages:\n  - name: {0}\n    kind: sft\n"])
def test_a_name_that_no_folder_can_have_is_refused(messages_of: Messages, key: str):
    assert "cannot name a folder" in messages_of(key.format("n" * 300))


def test_a_pipe_is_no_recipe(messages_of: Messages, folder: object):
    os.mkfifo("pipe.yaml")
    assert messages_of("extends: pipe.yaml\n") == Like("pipe.yaml: this is a pipe or a device …")
