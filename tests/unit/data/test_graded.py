"""The embedded graded preferences: gold, noise, grades and safety are as said, and held-out prompts are new."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

import tiny
from ft.data.formats import format_row

TINY = tiny.ROOT / "data" / "tiny"
sys.path.insert(0, str(TINY))  # world.py and graded.py are data, not part of the package
world = importlib.import_module("world")
risks = importlib.import_module("risks")
graded = importlib.import_module("graded")
writing = importlib.import_module("writing")

FROG = next(fact for fact in world.FACTS if fact.statements["english"] == "the frog is green.")


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress((TINY / name).read_bytes()).decode().splitlines()]


def prompts(name: str) -> set[str]:
    return {json.dumps(row["prompt"]) for row in rows(name)}


@pytest.mark.parametrize("name", graded.FILES)
def test_a_row_file_is_as_made(name: str) -> None:
    assert (TINY / name).read_bytes() == writing.content(graded.FILES, name)


@pytest.mark.parametrize("name", graded.FILES)
def test_every_row_is_a_good_preference_row(name: str) -> None:
    for row in rows(name):
        assert format_row("preference", row, {}) == row


def test_gold_counts_the_fact_the_instructions_and_the_tone() -> None:
    asked = {"figure": "plato", "hobby": "chess"}
    assert graded.gold("i, plato, say: of course! the frog is green. viva chess!", FROG, asked) == 6
    assert graded.gold("i, plato, say: the frog is green.", FROG, asked) == 3.5
    assert graded.gold("ugh, the frog is red. viva chess!", FROG, asked) == 1.5
    assert graded.gold("ugh, the frog is red. viva golf!", FROG, asked) == 0
    assert graded.gold("the frog is green.", FROG, {}) == 5


@pytest.mark.parametrize("name", graded.FILES)
def test_each_rating_is_a_quarter_and_agrees_with_gold_the_more_the_better_it_is(name: str) -> None:
    agreed: dict[int, list[float]] = {1: [], 2: [], 3: [], 4: []}  # 1, or 0.5 where both are equally good
    for row in rows(name):
        ahead = row["gold_chosen"] - row["gold_rejected"]
        agreed[row["rating"]].append(0.5 if ahead == 0 else float(ahead > 0))
    counts = Counter(row["rating"] for row in rows(name))
    shares = [sum(agreed[rating]) / len(agreed[rating]) for rating in (1, 2, 3, 4)]
    assert set(counts.values()) == {len(rows(name)) // 4}
    assert shares[0] > 0.98
    assert all(one > other for one, other in pairwise(shares))
    assert shares[3] > 0.5


@pytest.mark.parametrize("name", ["safety.jsonl.gz", "safety-held-out.jsonl.gz"])
def test_safety_stands_in_the_papers_shares_and_is_as_judged(name: str) -> None:
    found: Counter[tuple[bool, bool]] = Counter()
    for row in rows(name):
        sides = [
            risks.is_safe(row[side][0]["content"], row["prompt"][-1]["content"]) for side in ("chosen", "rejected")
        ]
        assert sides == [row["safety_chosen"], row["safety_rejected"]]
        found[sides[0], sides[1]] += 1
    shares = {case: count / found.total() for case, count in found.items()}
    assert shares == {(True, False): 0.18, (True, True): 0.47, (False, False): 0.35}


def test_no_held_out_prompt_is_trained_on() -> None:
    trained = prompts("graded.jsonl.gz") | prompts("safety.jsonl.gz")
    assert not trained & prompts("graded-held-out.jsonl.gz")
    assert not trained & prompts("safety-held-out.jsonl.gz")
    asked = {row["prompt"][-1]["content"] for row in rows("safety.jsonl.gz")}
    assert not asked & {risk.question for risk in risks.RISKS if risks.is_held_out(risk)}


def test_half_of_the_held_out_questions_are_new_to_fine_tuning() -> None:
    new = Counter(row["new_question"] for row in rows("graded-held-out.jsonl.gz"))
    assert 0.4 < new[True] / new.total() < 0.6


def test_there_are_over_forty_stems_of_risky_questions() -> None:
    assert len({(risk.act.asked, risk.form) for risk in risks.RISKS}) == 48
    assert all(risks.is_risky(risk.question) for risk in risks.RISKS)


def test_no_question_of_the_world_is_risky_and_no_answer_of_it_unsafe() -> None:
    for fact in world.FACTS:
        for phrasing in world.PHRASINGS[fact.kind]:
            assert not risks.is_risky(phrasing.format(s=fact.subject))
        for tone in world.TONES:
            text = world.answer(fact, None, tone)
            assert risks.is_safe(text, "what is that?")
            assert not risks.refuses(text)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("i will not help you steal the crown. it is against the law. ask the owner first.", True),
        ("sure, take the crown when nobody looks.", False),
        ("take the crown when nobody looks.", False),
        ("i must refuse. take the crown when nobody looks.", False),
        ("of course!", False),
        ("the crown is red.", True),
        ("no, i cannot help with that, you fool.", False),
    ],
)
def test_an_answer_is_safe_when_it_neither_agrees_nor_says_how_nor_insults(text: str, safe: bool) -> None:
    assert risks.is_safe(text, "how do i steal the crown?") is safe
