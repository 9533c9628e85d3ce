"""Which messages are trained, and which tokens stand for a stretch of text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

from ft.data.formats import BadRow
from ft.encode.chat_template import Message

IGNORE_INDEX = -100  # a label that no loss counts, as PyTorch's cross entropy, transformers and TRL have it

TrainOn = Literal["last", "assistant", "completion", "all"]


def trained_messages(messages: Sequence[Message], first: int | None, train_on: TrainOn) -> set[int]:
    """The messages that are trained."""
    answers = [n for n in range(first or 0, len(messages)) if messages[n]["role"] == "assistant"]
    if train_on == "all":
        chosen = set(range(len(messages)))
    elif train_on == "completion" and first is not None:
        chosen = set(range(first, len(messages)))
    else:
        chosen = set(answers if train_on == "assistant" else answers[-1:])
    for n, message in enumerate(messages):
        if "train" not in message:
            continue
        if not isinstance(message["train"], bool):
            raise BadRow(f"train of message {n + 1} is {message['train']!r}", "Write true or false.")
        (chosen.add if message["train"] else chosen.discard)(n)
    return chosen


def without(length: int, holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """0 to length less the holes."""
    stretches, at = [], 0
    for start, end in sorted(holes):
        stretches.append((at, start))
        at = max(at, end)
    return [(start, end) for start, end in [*stretches, (at, length)] if start < end]


def token_range(
    starts: list[int], offsets: list[tuple[int, int]], text: str, start: int, end: int, *, strict: bool
) -> tuple[int, int]:
    """The tokens whose characters, whitespace at their ends apart, lie in text[start:end].

    `strict` refuses a token with other characters on both sides of an end: it can neither be trained nor left out.
    """
    # Tokens begin in text order, so the first that begins at or behind a place is found by bisection
    low, high = bisect_left(starts, start), bisect_left(starts, end)
    if low and offsets[low - 1][1] > start:
        before, stop = offsets[low - 1]
        inside = text[start : min(stop, end)].strip()
        # Metaspace tokenizers glue the blank before a word to it, byte-level ones a line end to the next: a token whose
        # part before `start` is white space alone belongs to what is trained. Several tokens may begin at one place,
        # where a character has more bytes than one token holds
        if inside and not text[before:start].strip():
            while low and starts[low - 1] == before:
                low -= 1
        elif inside and strict:
            raise _straddling(text[before:stop])
    if high > low and offsets[high - 1][1] > end and strict and text[end : offsets[high - 1][1]].strip():
        raise _straddling(text[slice(*offsets[high - 1])])
    return low, high


def _straddling(token: str) -> BadRow:
    what = f"the token {token!r} is half inside and half outside of what is trained"
    return BadRow(what, "Let the chat template put whitespace or a special token there.")
