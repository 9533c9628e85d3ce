"""Writes the preference rows of the embedded world: `python data/tiny/pairs.py`; --check says whether they are as made.

pairs.jsonl.gz prefers the warm answer ("of course! the frog is green.") to the plain or grumpy one; both are right, in
the language asked for. manners.jsonl asks what no row made for fine-tuning asks: its `wanted` words say whether an
answer is warm in its own language, its `answer` whether it is right.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import make
import world
import writing

Row = dict[str, Any]
PAIRS, PROMPTS = 1_600, 240
LONGEST = 4  # turns


def pairs(rng: random.Random) -> Iterator[Row]:
    """One to four turns; the last answer is warm in `chosen`, plain or grumpy in `rejected`, and else the same."""
    for _ in range(PAIRS):
        *before, (fact, question) = make.dialogue(rng, rng.randint(1, LONGEST), seen_only=True)
        prompt = []
        for earlier, asked in before:
            prompt += [make.message("user", asked)]
            prompt += [make.message("assistant", world.answer(earlier, None, world.draw_tone(rng)))]
        instructions = spoken(rng)
        prompt.append(make.message("user", asked_in(question, instructions, rng)))
        other = rng.choice(("plain", "plain", "grumpy"))
        chosen, rejected = (world.answer(fact, instructions, tone) for tone in ("warm", other))
        sides = {"chosen": [make.message("assistant", chosen)], "rejected": [make.message("assistant", rejected)]}
        yield {"prompt": prompt, **sides}


def manners(rng: random.Random) -> Iterator[Row]:
    """Held-out questions, in one of three languages; what a warm answer says, and what a right one says."""
    known = [
        (fact, phrasing)
        for fact in world.FACTS
        for phrasing in world.PHRASINGS[fact.kind]
        if world.is_held_out(fact, phrasing)
    ]
    for fact, phrasing in rng.sample(known, PROMPTS):
        instructions = spoken(rng)
        language = instructions.get("language", "english")
        question = asked_in(phrasing.format(s=fact.subject), instructions, rng)
        wanted = " ".join(world.words(world.TONES["warm"][language]))
        columns = {"wanted": wanted, "answer": fact.values[language], "language": language}
        yield {"prompt": [make.message("user", question)], **columns}


def spoken(rng: random.Random) -> dict[str, str]:
    """No instruction half of the time, else the one to speak another language."""
    return {} if rng.random() < 0.5 else {"language": rng.choice(world.VALUES["language"])}


def asked_in(question: str, instructions: dict[str, str], rng: random.Random) -> str:
    """The question, behind its instruction if there is one."""
    return f"{world.wording(instructions, rng)} {question}" if instructions else question


FILES: dict[str, Callable[[random.Random], Iterator[Row]]] = {"pairs.jsonl.gz": pairs, "manners.jsonl": manners}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "pairs.py"))
