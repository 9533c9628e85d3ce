"""Writes the preference rows of the embedded world: `python data/tiny/pairs.py`; --check says whether they are as made.

pairs.jsonl.gz prefers the warm answer ("of course! the frog is green.") to the plain or grumpy one; both are right, in
the language asked for. manners.jsonl asks what no row made for fine-tuning asks: its `wanted` words say whether an
answer is warm in its own language, its `answer` whether it is right.

minimal-pairs.jsonl.gz prefers the right answer to one that differs in a single fault: another fact, or another language
than the one asked for. Half of the faulty answers are warm whatever the right one is, so that warmth does not make up
for a fault. minimal-pairs-held-out.jsonl.gz asks what no row made for fine-tuning asks; `fault` names it.
"""

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import make
import world
import writing

Row = dict[str, Any]
PAIRS, PROMPTS = 1_600, 240
MINIMAL_PAIRS, HELD_OUT_MINIMAL_PAIRS = 3_000, 400
LONGEST = 4  # turns


def pairs(rng: random.Random) -> Iterator[Row]:
    """One to four turns; the last answer is warm in `chosen`, plain or grumpy in `rejected`, and else the same."""
    for _ in range(PAIRS):
        prompt, fact, instructions = asked(rng, make.dialogue(rng, rng.randint(1, LONGEST), seen_only=True))
        other = rng.choice(("plain", "plain", "grumpy"))
        yield pair(prompt, *(world.answer(fact, instructions, tone) for tone in ("warm", other)))


def minimal_pairs(rng: random.Random) -> Iterator[Row]:
    """Questions of the chat rows."""
    for _ in range(MINIMAL_PAIRS):
        yield minimal_pair(rng, make.dialogue(rng, rng.randint(1, LONGEST), seen_only=True))


def minimal_pairs_held_out(rng: random.Random) -> Iterator[Row]:
    """One question each, held out."""
    known = held_out_questions()
    for _ in range(HELD_OUT_MINIMAL_PAIRS):
        fact, phrasing = rng.choice(known)
        yield minimal_pair(rng, [(fact, phrasing.format(s=fact.subject))])


def minimal_pair(rng: random.Random, dialogue: Iterable[tuple[world.Fact, str]]) -> Row:
    """The right answer in any tone, and one with another fact or in another language, in that tone or warm."""
    prompt, fact, instructions = asked(rng, dialogue)
    tone = rng.choice(tuple(world.TONES))
    other_tone = tone if rng.random() < 0.5 else "warm"
    chosen, fault = world.answer(fact, instructions, tone), rng.choice(("fact", "language"))
    if fault == "fact":
        rejected = world.answer(fact, instructions, other_tone, world.draw_wrong(rng, fact))
    else:
        others = [one for one in world.LANGUAGES if one != instructions.get("language", "english")]
        rejected = world.answer(fact, {"language": rng.choice(others)}, other_tone)
    return {**pair(prompt, chosen, rejected), "fault": fault}


def asked(
    rng: random.Random, dialogue: Iterable[tuple[world.Fact, str]]
) -> tuple[list[Row], world.Fact, dict[str, str]]:
    """A dialogue with right answers up to its last question, the fact this asks for, and the language, if one is."""
    *before, (fact, question) = dialogue
    prompt = []
    for earlier, earlier_question in before:
        prompt += [make.message("user", earlier_question)]
        prompt += [make.message("assistant", world.answer(earlier, None, world.draw_tone(rng)))]
    instructions = spoken(rng)
    return [*prompt, make.message("user", asked_in(question, instructions, rng))], fact, instructions


def pair(prompt: list[Row], chosen: str, rejected: str) -> Row:
    sides = {"chosen": [make.message("assistant", chosen)], "rejected": [make.message("assistant", rejected)]}
    return {"prompt": prompt, **sides}


def manners(rng: random.Random) -> Iterator[Row]:
    """Held-out questions, in one of three languages; what a warm answer says, and what a right one says."""
    for fact, phrasing in rng.sample(held_out_questions(), PROMPTS):
        instructions = spoken(rng)
        language = instructions.get("language", "english")
        question = asked_in(phrasing.format(s=fact.subject), instructions, rng)
        wanted = " ".join(world.words(world.TONES["warm"][language]))
        columns = {"wanted": wanted, "answer": fact.values[language], "language": language}
        yield {"prompt": [make.message("user", question)], **columns}


def held_out_questions() -> list[tuple[world.Fact, str]]:
    """Each with the fact it asks for."""
    known = [(fact, phrasing) for fact in world.FACTS for phrasing in world.PHRASINGS[fact.kind]]
    return [(fact, phrasing) for fact, phrasing in known if world.is_held_out(fact, phrasing)]


def spoken(rng: random.Random) -> dict[str, str]:
    """No instruction half of the time, else the one to speak another language."""
    return {} if rng.random() < 0.5 else {"language": rng.choice(world.VALUES["language"])}


def asked_in(question: str, instructions: dict[str, str], rng: random.Random) -> str:
    """The question, behind its instruction if there is one."""
    return f"{world.wording(instructions, rng)} {question}" if instructions else question


FILES: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "pairs.jsonl.gz": pairs,
    "manners.jsonl": manners,
    "minimal-pairs.jsonl.gz": minimal_pairs,
    "minimal-pairs-held-out.jsonl.gz": minimal_pairs_held_out,
}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "pairs.py"))
