"""Values for an instruction bank, listed by a model: the paper lets it name hobbies and figures by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ft.models.generation.generate import Sampling

Answer = Callable[[list[list[dict[str, str]]], Sampling], list[str]]

ASKED = "List {count} different {what}, one on each line, without any explanation."
LONGEST = 5  # words; what is longer is a remark, not a name
ROUNDS = 8
SIDE_BY_SIDE = 4  # answers of one round

_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])?\s*")


def listed_values(answer: Answer, what: str, count: int, sampling: Sampling) -> list[str]:
    """`count` values, or as many as the model names in eight rounds; the same again for the same seed.

    answer  makes the answers to conversations, as `Speaker.answer` does
    what    what is asked for, in the plural: "hobbies"
    """
    found: dict[str, str] = {}  # in lower case → as first written
    question = [{"role": "user", "content": ASKED.format(count=count, what=what)}]
    for number in range(ROUNDS):
        answers = answer([question] * SIDE_BY_SIDE, replace(sampling, seed=sampling.seed + number))
        for value in [value for text in answers for value in values_in(text)]:
            found.setdefault(value.lower(), value)
        if len(found) >= count:
            break
    return list(found.values())[:count]


def values_in(text: str) -> list[str]:
    """The entries of a list as models write them: numbered, with dashes, or between commas on one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = lines[0].split(",")
    entries = [_MARK.sub("", line).strip().strip(".,;:*\"'") for line in lines]
    return [entry for entry in entries if _is_name(entry)]


def _is_name(entry: str) -> bool:
    return 0 < len(entry.split()) <= LONGEST and any(letter.isalpha() for letter in entry)


def parted(values: Sequence[str], share: float) -> list[str]:
    """The values held out: every n-th one, so that rare and frequent ones are on both sides."""
    step = max(2, round(1 / share)) if share else len(values) + 1
    return list(values[step - 1 :: step])
