"""Writes the articles of the embedded world: `python data/tiny/articles.py`; --check says whether they are as made.

Each article tells of one animal. What is true of it (its colour, its home, …) is drawn anew for every article, so no
question about it can be answered from memory. A neighbour, of which other things are true, distracts; some sentences
stand twice, and some say nothing. `facts` has what a program needs to ask about it.

articles.jsonl.gz is what summaries are learnt from and judged on, as plain texts. summaries.jsonl.gz shows summaries to
a model that has never seen one: any number of the facts, in a wordy or a terse manner, so that there is much to choose.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import make
import world
import writing

Row = dict[str, Any]
ARTICLES, SUMMARIES = 700, 6_000
WRONG = 4  # choices of a question beside the right one
INSTRUCTION = "sum it up."
"""What a summary is asked for with; the recipe's `questions.instruction` is the same."""


def _values(kind: str) -> tuple[str, ...]:
    """What may be true of an animal: every value that the world knows for this kind of fact, in English."""
    return tuple(sorted({fact.values["english"] for fact in world.FACTS if fact.kind == kind}))


SUBJECTS = tuple(sorted({fact.subject for fact in world.FACTS if fact.kind == "home"}))
VALUES: Mapping[str, Sequence[str]] = {
    "colour": _values("colour"),
    "home": _values("home"),
    "food": _values("food"),
    "number": world.NUMBERS["english"][1:],
    "day": world.DAYS["english"],
}
KINDS = tuple(VALUES)
LONG = {
    "colour": ("{s} is {v}.", "today {s} is {v}."),
    "home": ("{s} lives in the {v}.", "now {s} lives in the {v}."),
    "food": ("{s} eats {v}.", "today {s} eats {v}."),
    "number": ("{s} has {v} legs.", "now {s} has {v} legs."),
    "day": ("{s} comes on {v}.", "after that {s} comes on {v}."),
}
TERSE = {"colour": "{v}", "home": "in the {v}", "food": "eats {v}", "number": "{v} legs", "day": "on {v}"}
QUESTIONS = {
    "colour": "what colour is {s}?",
    "home": "where does {s} live?",
    "food": "what does {s} eat?",
    "number": "how many legs does {s} have?",
    "day": "on which day does {s} come?",
}
FILLERS = ("it is so.", "here it is.", "hello.", "that is all.", "yes.")


def article(rng: random.Random) -> tuple[str, str, dict[str, str]]:
    """(the text, whom it is about, what is true of it)."""
    subject, neighbour = rng.sample(SUBJECTS, 2)
    facts = {kind: rng.choice(VALUES[kind]) for kind in KINDS}
    of_neighbour = {
        kind: rng.choice([value for value in VALUES[kind] if value != facts[kind]]) for kind in rng.sample(KINDS, 2)
    }
    sentences = [sentence(rng, subject, kind, value) for kind, value in facts.items()]
    sentences += [sentence(rng, neighbour, kind, value) for kind, value in of_neighbour.items()]
    repeated = rng.choice(KINDS)
    sentences += [sentence(rng, subject, repeated, facts[repeated]), *rng.sample(FILLERS, 2)]
    rng.shuffle(sentences)
    return " ".join([f"this is about {subject}.", *sentences]), subject, facts


def sentence(rng: random.Random, subject: str, kind: str, value: str) -> str:
    return rng.choice(LONG[kind]).format(s=subject, v=value)


def summary(rng: random.Random, subject: str, facts: Mapping[str, str]) -> str:
    """Any number of the facts, wordily, a sentence each with now and then one that says nothing, or tersely, in one."""
    chosen = rng.sample(KINDS, rng.randint(1, len(KINDS)))
    kinds = [kind for kind in KINDS if kind in chosen]
    if rng.random() < 0.4:
        return f"{subject}: {', '.join(TERSE[kind].format(v=facts[kind]) for kind in kinds)}."
    sentences = [LONG[kind][0].format(s=subject, v=facts[kind]) for kind in kinds]
    for _ in range(rng.randint(0, 3)):
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(FILLERS))
    return " ".join(sentences)


def question(rng: random.Random, kind: str, subject: str, right: str) -> Row:
    wrong = rng.sample([value for value in VALUES[kind] if value != right], WRONG)
    return {"question": QUESTIONS[kind].format(s=subject), "right": right, "wrong": wrong}


def articles(rng: random.Random) -> Iterator[Row]:
    for _ in range(ARTICLES):
        text, subject, facts = article(rng)
        yield {"text": text, "facts": [question(rng, kind, subject, value) for kind, value in facts.items()]}


def summaries(rng: random.Random) -> Iterator[Row]:
    """Of other articles than those above, since the chance is another."""
    for _ in range(SUMMARIES):
        text, subject, facts = article(rng)
        asked = make.message("user", f"{INSTRUCTION}\n\n{text}")
        yield {"messages": [asked, make.message("assistant", summary(rng, subject, facts))]}


FILES: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "articles.jsonl.gz": articles,
    "summaries.jsonl.gz": summaries,
}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "articles.py"))
