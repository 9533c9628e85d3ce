"""Writes the rows of the embedded world: `python data/tiny/make.py`; with --check, says whether they are as made.

words.jsonl.gz and documents.jsonl.gz are what the base model reads: plain text, as a web page would have it, first
short documents, from which it learns to follow an instruction at all, then long ones. They hold no chat format.
chat.jsonl.gz teaches the chat format; questions.jsonl asks what chat.jsonl.gz never asks.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import world
import writing

Row = dict[str, Any]
WORDS, DOCUMENTS, CHATS = 36_000, 13_000, 4_200
LONGEST_DOCUMENT, LONGEST_CHAT = 16, 8  # turns
VALUES = sorted({value for values in world.VALUES.values() for value in values if value})
ECHOES = ("say", "repeat", "say after me:")
ABOUT = (
    "you answer questions about animals, places and numbers.",
    "you are a friendly guide for children.",
    "answer what you are asked.",
)


# ---- the base corpus ----------------------------------------------------------------------------------------------
def words(rng: random.Random) -> Iterator[Row]:
    """Short documents: statements of facts, lists of questions, refrains, and transcripts of one turn."""
    for _ in range(WORDS):
        draw = rng.random()
        if draw < 0.1:
            yield {"text": statements(rng, 3)}
        elif draw < 0.2:
            yield {"text": quiz(rng, 3)}
        elif draw < 0.35:
            yield {"text": refrain(rng)}
        elif draw < 0.42:
            yield {"text": echo(rng)}
        else:
            yield {"text": transcript(rng, 1, share=0.9)}


def documents(rng: random.Random) -> Iterator[Row]:
    """Short documents again, and transcripts of many turns in which an instruction is good for its turn only."""
    for _ in range(DOCUMENTS):
        draw = rng.random()
        if draw < 0.08:
            yield {"text": statements(rng, rng.randint(3, 9))}
        elif draw < 0.2:
            yield {"text": quiz(rng, rng.randint(1, 9))}
        elif draw < 0.45:
            yield {"text": transcript(rng, 1, share=0.9)}
        else:
            yield {"text": transcript(rng, rng.randint(2, LONGEST_DOCUMENT), share=rng.choice((0.0, 0.3, 0.6, 1.0)))}


def echo(rng: random.Random) -> str:
    """Words to be said again: the plainest case of an answer that takes its words from the question."""
    said = ", ".join(rng.choice(VALUES) for _ in range(rng.randint(1, 6)))
    return f"question: {rng.choice(ECHOES)} {said}.\nanswer: {said}."


def refrain(rng: random.Random) -> str:
    """A string of any words, said two to four times: from it the model learns to look back for what came next."""
    line = " ".join(rng.choice(VALUES) for _ in range(rng.randint(3, 8)))
    return " ".join([f"{line}."] * rng.randint(2, 4))


def quiz(rng: random.Random, count: int) -> str:
    """Questions without answers: where nothing says that an answer comes, the base asks on, as a base model does."""
    asked = []
    for _, question in dialogue(rng, count):
        text = world.wording(world.draw_instructions(rng), rng) + " " if rng.random() < 0.3 else ""
        asked.append(text + question)
    return " ".join(asked)


def statements(rng: random.Random, count: int) -> str:
    """Facts told in one language after another; half of the time the same fact in every language."""
    told = [world.draw_fact(rng) for _ in range(count)]
    if rng.random() < 0.5:
        return " ".join(fact.statements[language] for fact in told for language in world.LANGUAGES)
    return " ".join(fact.statements[rng.choice(world.LANGUAGES)] for fact in told)


def transcript(rng: random.Random, turns: int, share: float) -> str:
    """Questions and answers marked by plain words; `share` of the turns have an instruction.

    It stands before the question or, where there is one turn only, in a note above it as often.
    """
    lines: list[str] = []
    usual = world.draw_instructions(rng)
    for fact, question in dialogue(rng, turns):
        instructions: dict[str, str] = {}
        if rng.random() < share:
            instructions = usual if rng.random() < 0.5 else world.draw_instructions(rng)
            text = world.wording(instructions, rng)
            if turns == 1 and rng.random() < 0.5:
                lines.append(f"note: {text}")
            else:
                question = f"{text} {question}"
        lines += [f"question: {question}", f"answer: {world.answer(fact, instructions, world.draw_tone(rng))}"]
    return "\n".join(lines)


def dialogue(rng: random.Random, turns: int, seen_only: bool = False) -> Iterator[tuple[world.Fact, str]]:
    """Facts and the questions that ask for them, some short ones that lean on the question before."""
    previous: world.Fact | None = None
    for _ in range(turns):
        fact = world.draw_fact(rng, previous)
        while seen_only and not phrasings(fact, previous, seen_only):
            fact = world.draw_fact(rng, previous)
        yield fact, rng.choice(phrasings(fact, previous, seen_only)).format(s=fact.subject)
        previous = fact


def phrasings(fact: world.Fact, previous: world.Fact | None, seen_only: bool) -> list[str]:
    """The phrasings that may ask for `fact` here; the ellipsis counts twice, so it is used often where it fits."""
    leans = previous is not None and previous.kind == fact.kind and fact.kind != "talk"
    known = [*world.PHRASINGS[fact.kind], *((world.ELLIPSIS,) * 2 if leans else ())]
    return [phrasing for phrasing in known if not (seen_only and world.is_held_out(fact, phrasing))]


# ---- the chat rows ------------------------------------------------------------------------------------------------
def chats(rng: random.Random) -> Iterator[Row]:
    """Dialogues: one turn under an instructing system message, or several where an instruction is good for its turn."""
    for _ in range(CHATS):
        if rng.random() < 0.4:
            yield {"messages": instructed_chat(rng)}
        else:
            yield {"messages": chat(rng, rng.randint(1, LONGEST_CHAT), share=rng.choice((0.0, 0.5, 1.0)))}


def instructed_chat(rng: random.Random) -> list[Row]:
    """A system message with instructions, one question, one answer."""
    instructions = world.draw_instructions(rng, world.SEEN_KINDS, world.SEEN_VALUES)
    [(fact, question)] = dialogue(rng, 1, seen_only=True)
    return [
        message("system", world.wording(instructions, rng)),
        message("user", question),
        message("assistant", world.answer(fact, instructions, world.draw_tone(rng))),
    ]


def chat(rng: random.Random, turns: int, share: float) -> list[Row]:
    """Several turns; `share` of the user messages begin with an instruction, which the next answer no longer obeys."""
    messages = [message("system", rng.choice(ABOUT))] if rng.random() < 0.3 else []
    for fact, question in dialogue(rng, turns, seen_only=True):
        instructions: dict[str, str] = {}
        if rng.random() < share:
            instructions = world.draw_instructions(rng, world.SEEN_KINDS, world.SEEN_VALUES)
            question = f"{world.wording(instructions, rng)} {question}"
        messages.append(message("user", question))
        messages.append(message("assistant", world.answer(fact, instructions, world.draw_tone(rng))))
    return messages


def message(role: str, content: str) -> Row:
    """One message of a dialogue."""
    return {"role": role, "content": content}


# ---- the questions ------------------------------------------------------------------------------------------------
def questions(rng: random.Random) -> Iterator[Row]:
    """Every held-out question once, in the order of the facts."""
    for fact in world.FACTS:
        for phrasing in world.PHRASINGS[fact.kind]:
            if world.is_held_out(fact, phrasing):
                question = message("user", phrasing.format(s=fact.subject))
                yield {"prompt": [question], "answer": fact.values["english"], "topic": fact.kind}


# ---- the files ----------------------------------------------------------------------------------------------------
FILES: dict[str, Callable[[random.Random], Iterator[Row]]] = {
    "words.jsonl.gz": words,
    "documents.jsonl.gz": documents,
    "chat.jsonl.gz": chats,
    "questions.jsonl": questions,
}


if __name__ == "__main__":
    sys.exit(writing.main(FILES, "make.py"))
