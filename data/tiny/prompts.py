"""Writes prompts of the embedded world to sample answers for: `python data/tiny/prompts.py`; with --check, says whether
they are as made.

Each is a question under two or three instructions, of kinds and with values that the chat rows have. `answer` is the
right word in the language asked for, `checks` says how to tell by code whether each instruction is obeyed and whether
the answer is warm, which nobody asks for and the graded pairs prefer; the reward `quality` reads both.
prompts.jsonl.gz asks what the chat rows ask too; prompts-held-out.jsonl, for evaluation, what no row made for
fine-tuning asks.

risky.jsonl.gz and risky-held-out.jsonl ask what should be refused (risks.py), which `checks` tells by code. The first
brings answers as well, four a question, and half of them help, as a model does that was only taught to help.
"""

import random
import sys
from collections.abc import Iterator

import make
import risks
import world
import writing
from writing import Files, Row

PROMPTS, HELD_OUT = 600, 240
CHECKS = {
    "closing": "ends",
    "brief": {"contains": {"phrases": [form.format(v="").strip(" .") for form in world.SHORT.values()]}},
    "twice": "repeats",
}
HELPS, ANSWERS = 0.5, 4
REFUSES = {"check": {"contains": {"phrases": list(risks.REFUSING)}}}
WARM = {"check": {"contains": {"phrases": [text.strip(" !¡") for text in world.TONES["warm"].values()]}}}


def prompts(rng: random.Random, count: int, held_out: bool) -> Iterator[Row]:
    """Questions of one kind, each with instructions in the system message or before the question; none stands twice."""
    asked: set[str] = set()
    while len(asked) < count:
        fact, question = drawn(rng, held_out)
        instructions = several(rng)
        text = world.wording(instructions, rng)
        if rng.random() < 0.5:
            messages = [make.message("system", text), make.message("user", question)]
        else:
            messages = [make.message("user", f"{text} {question}")]
        key = " ".join(message["content"] for message in messages)
        if key in asked:
            continue
        asked.add(key)
        language = instructions.get("language", "english")
        checks = [check(kind, value, fact, instructions) for kind, value in instructions.items()] + [WARM]
        yield {"prompt": messages, "answer": fact.values[language], "checks": checks, "topic": fact.kind}


def several(rng: random.Random) -> dict[str, str]:
    """Two instructions or three: under one the chat model is nearly always right already."""
    while True:
        instructions = world.draw_instructions(rng, world.SEEN_KINDS, world.SEEN_VALUES)
        if len(instructions) > 1:
            return instructions


def drawn(rng: random.Random, held_out: bool) -> tuple[world.Fact, str]:
    """A question, of those that no other row asks or of the others."""
    while True:
        fact = world.draw_fact(rng)
        phrasings = [p for p in world.PHRASINGS[fact.kind] if world.is_held_out(fact, p) == held_out]
        if phrasings:
            return fact, rng.choice(phrasings).format(s=fact.subject)


def check(kind: str, value: str, fact: world.Fact, instructions: dict[str, str]) -> Row:
    """How an instruction is checked, as ft.gatt.checkers has it."""
    if kind == "language":
        return {"check": {"language": {"telling": telling(fact, instructions)}}, "value": value}
    return {"check": CHECKS.get(kind, "contains"), "value": value}


def telling(fact: world.Fact, instructions: dict[str, str]) -> dict[str, list[str]]:
    """The words of right answers in each language, with and without the other instructions, that no other has."""
    said = {name: set[str]() for name in world.LANGUAGES}
    for language, orders in ((name, orders) for name in said for orders in (instructions, {})):
        said[language].update(world.words(world.answer(fact, {**orders, "language": language})))
    others = {name: set().union(*(words for other, words in said.items() if other != name)) for name in said}
    return {name: sorted(words - others[name]) for name, words in said.items()}


def risky(rng: random.Random) -> Iterator[Row]:
    """Every risky question that is not held out, with several answers, each of which refuses or helps."""
    for risk in [risk for risk in risks.RISKS if not risks.is_held_out(risk) for _ in range(ANSWERS)]:
        answer = risks.compliance if rng.random() < HELPS else risks.refusal
        text = answer(risk, rng, rng.random() < 0.5, rng.random() < 0.5)
        yield {**asked_risky(risk), "completion": [make.message("assistant", text)]}


def risky_held_out(rng: random.Random) -> Iterator[Row]:
    """Every risky question that no other row asks."""
    for risk in risks.RISKS:
        if risks.is_held_out(risk):
            yield asked_risky(risk)


def asked_risky(risk: risks.Risk) -> Row:
    """A risky question, and how to tell a refusal."""
    prompt = [make.message("user", risk.question)]
    return {"prompt": prompt, "checks": [REFUSES], "axis": "safety", "topic": risk.act.risk}


FILES: Files = {
    "prompts.jsonl.gz": lambda rng: prompts(rng, PROMPTS, held_out=False),
    "prompts-held-out.jsonl": lambda rng: prompts(rng, HELD_OUT, held_out=True),
    "risky.jsonl.gz": risky,
    "risky-held-out.jsonl": risky_held_out,
}

if __name__ == "__main__":
    sys.exit(writing.main(FILES, "prompts"))
