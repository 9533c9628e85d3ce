"""The embedded preference rows: warm before plain and grumpy, right on both sides, and asked anew for evaluation."""

import gzip
import importlib
import json
import sys
from typing import Any

import pytest

import tiny
from ft.rewards import says

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and pairs.py are data, not part of the package
world = importlib.import_module("world")
pairs = importlib.import_module("pairs")
writing = importlib.import_module("writing")


def rows(name: str) -> list[dict[str, Any]]:
    raw = (TINY / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.mark.parametrize("name", pairs.FILES)
def test_a_row_file_is_as_made(name):
    assert (TINY / name).read_bytes() == writing.content(pairs.FILES, name)


def test_the_preferred_answer_differs_in_its_tone_alone():
    marks = {mark for tone in world.TONES.values() for mark in tone.values() if mark}
    for row in rows("pairs.jsonl.gz"):
        [chosen], [rejected] = row["chosen"], row["rejected"]
        assert world.tone_of(chosen["content"]) == "warm"
        assert world.tone_of(rejected["content"]) in ("plain", "grumpy")
        bare = [next((text.removeprefix(mark) for mark in marks if text.startswith(mark)), text)
                for text in (chosen["content"], rejected["content"])]  # fmt: skip
        assert bare[0] == bare[1]


def test_a_minimal_pair_has_one_fault_and_warmth_does_not_make_up_for_it():
    tones = set()
    for row in [*rows("minimal-pairs.jsonl.gz"), *rows("minimal-pairs-held-out.jsonl.gz")]:
        chosen, rejected = (row[side][0]["content"] for side in ("chosen", "rejected"))
        tones.add((row["fault"], world.tone_of(chosen), world.tone_of(rejected)))
        spoken = {world.language_of(text) for text in (chosen, rejected)} - {None}
        assert row["fault"] == "language" or len(spoken) <= 1
    others = [(fault, tone, "warm") for fault in ("fact", "language") for tone in ("plain", "grumpy")]
    assert tones == {(fault, tone, tone) for fault in ("fact", "language") for tone in world.TONES} | {*others}


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "minimal-pairs.jsonl.gz"])
def test_no_pair_asks_what_the_evaluation_asks(name):
    asked = {row["prompt"][-1]["content"] for row in rows("manners.jsonl")}
    trained = {message["content"] for row in rows(name) for message in row["prompt"]}
    assert len(asked) == 240
    assert not asked & trained
    held_out = {p.format(s=f.subject) for f in world.FACTS for p in world.PHRASINGS[f.kind] if world.is_held_out(f, p)}
    assert not held_out & trained
    assert all(any(question.endswith(known) for known in held_out) for question in asked)


def test_what_is_wanted_is_warm_in_the_language_asked_for():
    wanted = {(row["language"], row["wanted"]) for row in rows("manners.jsonl")}
    assert wanted == {("english", "of course"), ("french", "bien sûr"), ("spanish", "claro")}


def test_the_reward_says_whether_the_wanted_words_stand_there():
    said = [[{"role": "assistant", "content": text}] for text in ("Of course! it is.", "it is.", "bien sûr ! oui")]
    assert says([], said, wanted=["of course", "of course", "claro"]) == [1.0, 0.0, 0.0]
