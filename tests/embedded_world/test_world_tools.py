"""The rows of the embedded world that call tools: as made, right by the world's own facts, and held out in earnest."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from typing import Any

import pytest

import tiny
from ft.data.formats import format_row
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.tool_calls import CallReader

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and tools.py are data, not part of the package
world = importlib.import_module("world")
tools = importlib.import_module("tools")
writing = importlib.import_module("writing")


def rows(name: str) -> list[dict[str, Any]]:
    raw = (TINY / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.mark.parametrize("name", tools.FILES)
def test_the_files_are_as_made(name):
    assert (TINY / name).read_bytes() == writing.content(tools.FILES, name)


def test_a_call_is_made_where_its_tool_is_offered_and_only_there():
    for row in rows("tools.jsonl.gz") + rows("tools-held-out.jsonl.gz"):
        offered = {tool["function"]["name"] for tool in row.get("tools", [])}
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                assert call["function"]["name"] in offered
    kinds = {
        (len(row.get("tools", [])), "tool_calls" in row["messages"][-1]) for row in rows("tools-held-out.jsonl.gz")
    }
    assert kinds == {(0, False), (1, False), (1, True), (2, False), (2, True)}


def test_no_row_to_train_on_asks_what_is_held_out():
    to_train_on = rows("tools.jsonl.gz") + rows("tool-arguments.jsonl.gz")
    trained = {message["content"] for row in to_train_on for message in row["messages"]}
    held_out = [row["messages"][0]["content"] for row in rows("tools-held-out.jsonl.gz")]
    assert len(held_out) == len(set(held_out)) == 331
    assert not trained & {*held_out, *(row["prompt"][0]["content"] for row in rows("tool-results.jsonl"))}
    words = {word for text in trained for word in world.words(text)}
    assert words.isdisjoint(tools.NEW_THINGS)


def test_what_a_tool_found_is_not_what_the_world_says():
    true = {f"the {fact.kind} of {fact.subject}": fact.values["english"] for fact in world.FACTS}
    for row in rows("tool-results.jsonl"):
        query = row["prompt"][1]["tool_calls"][0]["function"]["arguments"]["query"]
        assert row["answer"] == row["prompt"][2]["content"] != true[query]


def test_the_recipes_template_writes_every_row_and_its_calls_can_be_read():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(TINY / "base"))
    tokenizer.chat_template = (tiny.ROOT / "recipes/tiny/tools.jinja").read_text(encoding="utf-8")
    renderer = Renderer(tokenizer, max_length=512, on_too_long="error")
    reader = CallReader(renderer.chat)
    for row in rows("tools-held-out.jsonl.gz"):
        formatted = format_row("messages", row, {})
        rendered = renderer.render_batch([formatted])[0]
        assert isinstance(rendered, RenderedRow)
        trained = tokenizer.decode([label for label in rendered.labels if label >= 0])
        *_, answer = formatted["messages"]
        prompt = renderer.prompt_text(formatted["messages"][:-1], row.get("tools"))
        assert reader.read(prompt, trained, row.get("tools")) == (answer["content"], answer.get("tool_calls", []))
