"""Making a long dialogue fit: whole oldest turns leave, the system message and what is trained for sure stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ft.encode.chat_template import Message

T = TypeVar("T")


@dataclass
class Counts:
    """What became of long rows; `answers_shortened` counts untrained answers whose thinking the template left out."""

    rows_too_long: int = 0
    rows_dropped: int = 0
    turns_dropped: int = 0
    answers_shortened: int = 0


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins: a user message and all that answers it. System messages before the first are no turn."""
    return [n for n, message in enumerate(messages) if message["role"] == "user"]


def messages_left(messages: Sequence[Message], dropped: int) -> list[int]:
    """The numbers of the messages left when the `dropped` oldest turns leave."""
    starts = turn_starts(messages)
    if not dropped:
        return list(range(len(messages)))
    head = [n for n in range(starts[0]) if messages[n]["role"] == "system"]
    return [*head, *range(starts[dropped], len(messages))]


def fewest_dropped(most: int, fits: Callable[[int], T | None]) -> tuple[int, T] | None:
    """The smallest number of turns to drop, 1 to most, that fits, with what fits; fewer turns are never longer."""
    # Length falls as turns leave, so bisection finds the least of them in log2(most) renderings
    best: tuple[int, T] | None = None
    low, high = 1, most
    while low <= high:
        middle = (low + high) // 2
        if (fitting := fits(middle)) is not None:
            best, high = (middle, fitting), middle - 1
        else:
            low = middle + 1
    return best
