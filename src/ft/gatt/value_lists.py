"""Values for an instruction bank, listed by a model: the paper lets it name hobbies and figures by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ft.models.generation.sampling import Sampling

AnswerConversations = Callable[[list[list[dict[str, str]]], Sampling], list[str]]

QUESTION = "List {count} different {what}, one on each line, without any explanation."
MAX_WORDS = 5  # what is longer is a remark, not a name
ROUNDS = 8
ANSWERS_PER_ROUND = 4

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])?\s*")


def listed_values(answer: AnswerConversations, what: str, count: int, sampling: Sampling) -> list[str]:
    """`count` values, or as many as the model names in eight rounds; the same again for the same seed.

    answer  makes the answers to conversations, as `ChatModel.answer` does
    what    what is asked for, in the plural: "hobbies"
    """
    values: dict[str, str] = {}  # in lower case → as first written
    conversation = [{"role": "user", "content": QUESTION.format(count=count, what=what)}]
    for number in range(ROUNDS):
        answers = answer([conversation] * ANSWERS_PER_ROUND, replace(sampling, seed=sampling.seed + number))
        for value in [value for text in answers for value in values_in(text)]:
            values.setdefault(value.lower(), value)
        if len(values) >= count:
            break
    return list(values.values())[:count]


def values_in(text: str) -> list[str]:
    """The entries of a list as models write them: numbered, with dashes, or between commas on one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = lines[0].split(",")
    entries = [_MARK.sub("", line).strip().strip(".,;:*\"'") for line in lines]
    return [entry for entry in entries if _is_name(entry)]


def _is_name(entry: str) -> bool:
    return 0 < len(entry.split()) <= MAX_WORDS and any(letter.isalpha() for letter in entry)


def held_out_values(values: Sequence[str], share: float) -> list[str]:
    """The values held out: every n-th one, so that rare and frequent ones are on both sides."""
    step = max(2, round(1 / share)) if share else len(values) + 1
    return list(values[step - 1 :: step])
