"""Making long rows fit: of a dialogue whole oldest turns leave, the system message and what is trained for sure stay; a
document may be split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ft.data.formats.fields import IMAGES
from ft.encode.chat_template import Message

T = TypeVar("T")


@dataclass
class Counts:
    """What became of long rows; `pieces` are those that documents were split into, and `answers_shortened` counts
    untrained answers whose thinking the template left out."""

    rows_too_long: int = 0
    rows_dropped: int = 0
    turns_dropped: int = 0
    pieces: int = 0
    answers_shortened: int = 0

    def of_long_rows(self) -> dict[str, int]:
        """For stats.json; see `long_rows_words`."""
        counts = {"rows": self.rows_too_long, "dropped": self.rows_dropped, "turns": self.turns_dropped}
        return counts | ({"pieces": self.pieces} if self.pieces else {})


def long_rows_words(counts: Mapping[str, int]) -> str:
    """What became of rows that were too long: nothing is left out in silence. "" where there were none."""
    if not counts.get("rows"):
        return ""
    if pieces := counts.get("pieces"):
        return f"{counts['rows']:,} too long: split into {pieces:,} pieces"
    return f"{counts['rows']:,} too long: {counts['dropped']:,} dropped, {counts['turns']:,} old turns cut"


def pieces(length: int, most: int) -> list[slice]:
    """Where a document of `length` tokens is cut into pieces of at most `most`. None is one token alone: the first of a
    piece is predicted by nothing, so a piece like that would train nothing."""
    starts = list(range(0, length, most))
    if length - starts[-1] == 1 and most > 2:
        starts[-1] -= 1
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]


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


def shortened(messages: Sequence[Message], dropped: int) -> list[Message]:
    """The messages left when the `dropped` oldest turns leave. What they are about stays: pictures of turns that left
    are those of the first one that is left."""
    numbers = messages_left(messages, dropped)
    left = [messages[n] for n in numbers]
    gone = [message for n, message in enumerate(messages) if n not in numbers]
    pictures = [one for message in gone for one in message.get(IMAGES) or ()]
    first = next((n for n, message in enumerate(left) if message["role"] == "user"), None)
    if pictures and first is not None:
        left[first] = {**left[first], IMAGES: [*pictures, *(left[first].get(IMAGES) or ())]}
    return left


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
