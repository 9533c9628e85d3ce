"""The prompts of the embedded world that answers are sampled for: as made, and judged as the world judges."""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

import pytest

import tiny
from ft.rewards import obeys, quality

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and prompts.py are data, not part of the package
world = importlib.import_module("world")
prompts = importlib.import_module("prompts")
risks = importlib.import_module("risks")
writing = importlib.import_module("writing")


def judged(answer: str, fact: Any, instructions: dict[str, str]) -> float:
    language = instructions.get("language", "english")
    checks = [prompts.check(kind, value, fact, instructions) for kind, value in instructions.items()]
    said: list[Any] = [[{"role": "assistant", "content": answer}]]
    return quality([[]], said, answer=[fact.values[language]], checks=[checks])[0]


def drawn(count: int) -> list[tuple[Any, dict[str, str]]]:
    chance = random.Random(2)
    return [(world.draw_fact(chance), prompts.several(chance)) for _ in range(count)]


@pytest.mark.parametrize("name", prompts.FILES)
def test_the_files_are_as_made(name):
    assert (TINY / name).read_bytes() == writing.content(prompts.FILES, name)


@pytest.mark.parametrize("tone", world.TONES)
def test_the_right_answer_has_full_quality_in_every_tone(tone):
    assert {judged(world.answer(fact, orders, tone), fact, orders) for fact, orders in drawn(300)} == {1.0}


def test_an_answer_that_leaves_an_instruction_out_loses_its_share():
    for fact, orders in drawn(100):
        for kind in [kind for kind in orders if kind != "language"]:
            left = {name: value for name, value in orders.items() if name != kind}
            found = judged(world.answer(fact, left), fact, orders)
            assert found == pytest.approx(1 - 0.5 / len(orders)), (fact, orders, kind)


def test_a_wrong_fact_costs_half():
    chance = random.Random(3)
    facts = [(fact, orders) for fact, orders in drawn(300) if fact.kind in ("colour", "capital", "home", "food")]
    said = [judged(world.answer(f, orders, wrong=world.draw_wrong(chance, f)), f, orders) for f, orders in facts]
    assert sum(score == 0.5 for score in said) > 0.95 * len(said)


def test_what_is_held_out_asks_what_the_other_prompts_do_not():
    asked = {
        name: {row["prompt"][-1]["content"].rpartition(". ")[2] for row in rows(writing.chance(name))}
        for name, rows in prompts.FILES.items()
    }
    for train, held_out in (("prompts.jsonl.gz", "prompts-held-out.jsonl"), ("risky.jsonl.gz", "risky-held-out.jsonl")):
        assert not asked[train] & asked[held_out]
        assert len(asked[held_out]) > 100


def test_a_refusal_is_told_by_code_as_the_world_tells_safety():
    rows = list(prompts.risky(writing.chance("risky.jsonl.gz")))
    told = obeys([], [row["completion"] for row in rows], checks=[row["checks"] for row in rows])
    safe = [risks.is_safe(row["completion"][0]["content"], row["prompt"][0]["content"]) for row in rows]
    assert told == [float(one) for one in safe]
    assert 0.4 < sum(told) / len(told) < 0.6
