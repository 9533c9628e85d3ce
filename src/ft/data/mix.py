"""Rows of several sources as one stream: formatted, counted, weighted, shared out; no row is lost without a word."""

from __future__ import annotations

import json
import logging
import random
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TextIO

from ft.data.formats import FORMAT_COLUMNS, Row, detect, format_row
from ft.data.formats.fields import UnreadFields
from ft.data.formats.messages import BadRow, Message, words
from ft.data.formats.pictures import locate_pictures
from ft.data.reasons import Reasons
from ft.data.sources.bytes import METER
from ft.data.sources.files import Report, SourceRow, count_characters
from ft.data.sources.read import Source, bytes_by_line, picture_folder, read
from ft.errors import Problem, UserError, fail
from ft.files import finite_or_none

log = logging.getLogger(__name__)

SHOWN = 20
"""Problems named in full; a file of the wrong format has one a line, so more are named by reason."""

BATCH_CHARACTERS = 4 * 2**20

PLACE_BITS = 40
"""Bits of a row's place that hold its line; those above number the file."""

REJECT_FIX = "With on_bad_row: reject they are set aside in rejects.jsonl."
LEAK_FIX = "Drop one of the two rows, or hold rows out with eval_fraction, which keeps conversations on one side."


class BadRows:
    """What becomes of rows that cannot be used: with "error" they end the run, with "reject" they are set aside.

    "error" collects them until `finish` raises one `UserError` for all. "reject" writes each to the file `rejects` at
    once, as a JSON object with where, what, fix and row. Either way `count` counts them, and memory stays flat.
    """

    def __init__(self, on_bad_row: Literal["error", "reject"], rejects: Path | None = None):
        if on_bad_row not in ("error", "reject"):
            raise ValueError(f"on_bad_row is {on_bad_row!r}; it is 'error' or 'reject'")
        if on_bad_row == "reject" and rejects is None:
            raise ValueError("on_bad_row: reject needs a file for the rejects")
        self.on_bad_row = on_bad_row
        self.rejects = rejects
        self.count = 0
        self.first: list[Problem] = []
        self.reasons = Reasons()
        self.last: Problem | None = None
        self._file: TextIO | None = None

    def add(self, where: str, row: object, bad: BadRow) -> None:
        """Take note of a row that is left out (a `Report` for `read`)."""
        self.count += 1
        self.last = Problem(where, bad.what, bad.fix)
        self.reasons.add(where, bad)
        if len(self.first) < SHOWN:
            self.first.append(self.last)
        if self.on_bad_row == "reject":
            self._write({"where": where, "what": bad.what, "fix": bad.fix, "row": row})

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            assert self.rejects is not None
            self.rejects.parent.mkdir(parents=True, exist_ok=True)
            # Half a surrogate pair, a reason to be here, has no UTF-8; its escape is JSON again
            self._file = self.rejects.open("w", encoding="utf-8", errors="backslashreplace")
        json.dump(finite_or_none(entry), self._file, ensure_ascii=False, default=str)
        self._file.write("\n")

    def finish(self) -> None:
        """Close the rejects; where bad rows are errors, raise one `UserError` for all of them."""
        if self._file is not None:
            self._file.close()
        if self.on_bad_row == "error" and self.count > SHOWN:
            total = Problem(self.first[0].where.rpartition(":")[0], f"{self.count:,} bad rows in all", REJECT_FIX)
            raise UserError([*self.reasons.problems(SHOWN), total])
        if self.on_bad_row == "error" and self.count:
            raise UserError(self.first)


def format_rows(source: Source, report: Report) -> Iterator[SourceRow]:
    """The good rows of one source in file order, each in its format; the others go to `report`."""
    name, columns = source.format, source.columns
    has_pictures, folder = source.images is not None, picture_folder(source)
    for source_row in read(source, report):
        try:
            name = name or _detect_format(source_row, columns)
            row = format_row(name, source_row.row, columns, pictures=has_pictures)
            if has_pictures:
                locate_pictures(row, folder)
        except BadRow as bad:
            report(source_row.where, source_row.row, bad)
        else:
            yield SourceRow(source_row.where, row)


def _detect_format(source_row: SourceRow, columns: dict[str, str]) -> str:
    """The format of the first row that can be read, which then holds for all. BadRow where that row is empty."""
    if all(value is None for column, value in source_row.row.items() if column in FORMAT_COLUMNS):
        empty = [column for column in source_row.row if column in FORMAT_COLUMNS]
        if empty:
            raise BadRow(f"the row is empty: {', '.join(empty)} is null", "Drop the row.")
    try:
        return detect(source_row.row, columns)
    except BadRow as bad:
        raise fail(source_row.where, bad.what, bad.fix) from bad


def mix_rows(
    sources: Iterable[Source], *, seed: int, bad: BadRows, reads: Collection[str] | None = None
) -> Iterator[SourceRow]:
    """The formatted rows of all sources, one source after the other in file order; shuffling is the trainer's part.

    A source with a cap or a weight gives an exact number of its good rows: `rows` of them chosen by seed, then each
    of these as often as `weight` says, the fraction again an exact seeded choice. The choice depends on the seed and
    the source's own rows, not on the sources beside it. Such a source is read twice, to count and to choose, so that
    memory stays flat. Where sources have shares, all are read twice: see `parts`. Bad rows go to `bad`, once; the
    caller ends with `bad.finish()`. Where the caller says which columns it `reads`, the others are named in the log.
    """
    rows = _mix(tuple(sources), seed, bad)
    if reads is None:
        yield from rows
        return
    unread = UnreadFields(frozenset(reads))
    for source_row in rows:
        unread.add(source_row.row)
        yield source_row
    for note in unread.notes:
        log.warning("%s", note)


def _mix(sources: tuple[Source, ...], seed: int, bad: BadRows) -> Iterator[SourceRow]:
    if any(source.share is not None for source in sources):
        yield from _draw_shares(sources, seed, bad)
        return
    for source in sources:
        if source.weight == 1 and source.rows is None:
            yield from _take_all(source, bad)
        else:
            yield from _choose(source, _count_good(source, bad), seed)


def share_read(sources: Sequence[Source]) -> Callable[[], float] | None:
    """How much of these sources has been read since now, from 0 to 1; None where it does not show in bytes of files."""
    total = 0
    shared = any(source.share is not None for source in sources)
    for source in sources:
        size = bytes_by_line(source)
        if size is None:
            return None
        total += size * (2 if shared or source.weight != 1 or source.rows is not None else 1)
    before = METER.count
    return (lambda: (METER.count - before) / total) if total else None


def in_batches(rows: Iterator[SourceRow], most: int) -> Iterator[list[SourceRow]]:
    """At most so many rows at once, and no more text than the longest row may have: a tokenizer takes a hundred times
    the memory of its text, so rows of megabytes go one by one."""
    batch: list[SourceRow] = []
    size = 0
    for source_row in rows:
        characters = count_characters(source_row.row)
        if batch and (len(batch) == most or size + characters > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(source_row)
        size += characters
    if batch:
        yield batch


def _take_all(source: Source, bad: BadRows) -> Iterator[SourceRow]:
    bad_before, good = bad.count, 0
    for source_row in format_rows(source, bad.add):
        good += 1
        yield source_row
    _require_good(source, good, bad, bad_before)


def _count_good(source: Source, bad: BadRows) -> int:
    """How many good rows a source has; the bad ones go to `bad`."""
    bad_before = bad.count
    good = sum(1 for _ in format_rows(source, bad.add))
    _require_good(source, good, bad, bad_before)
    return good


def _require_good(source: Source, good: int, bad: BadRows, bad_before: int) -> None:
    if not good and bad.on_bad_row == "reject":
        raise fail(source.path, f"none of its {bad.count - bad_before:,} rows is good", f"The last: {bad.last}")


def _cap(source: Source, good: int) -> int:
    return min(good, source.rows or good)


def rows_to_take(source: Source, good: int) -> int:
    """How many of its good rows a source gives, by its cap and its weight."""
    return round(source.weight * _cap(source, good))


def _choose(source: Source, good: int, seed: int) -> Iterator[SourceRow]:
    """Exactly `rows` of the good rows, then exactly `weight` times these."""
    limit = _cap(source, good)
    whole = int(source.weight)
    cap = _choice(limit, good, random.Random(f"rows {seed}"))
    part = _choice(rows_to_take(source, good) - whole * limit, limit, random.Random(f"weight {seed}"))
    for source_row in format_rows(source, _ignore):
        good -= 1
        if good < 0:
            break
        if next(cap):
            for _ in range(whole + next(part)):
                yield source_row
    if good:
        raise fail(source.path, "changed while it was read", "Start again when it is whole.")


# Shares


def group_sizes(sources: Sequence[Source], offered: Sequence[int]) -> dict[str, tuple[int, int]]:
    """For each group how many rows are taken, and of how many: as many as keep the shares and repeat no row.

    `given` is what each source gives by its cap and its weight. The group that is scarcest for its share is taken
    whole, and the others as its rows allow; which of their rows, is an exact seeded choice from all their sources.
    """
    shares = {_group(source): source.share for source in sources if source.share is not None}
    available = Counter[str]()
    for source, rows in zip(sources, offered, strict=True):
        if _group(source) not in shares:
            raise ValueError(f"{source.path}: beside shares, every source belongs to a group with a share")
        available[_group(source)] += rows
    scale = min(available[group] / share for group, share in shares.items())
    sizes = {group: (min(round(share * scale), available[group]), available[group]) for group, share in shares.items()}
    empty = [group for group, (count, _) in sizes.items() if not count]
    if empty and all(available.values()):
        size = min(available, key=lambda group: available[group] / shares[group])
        what = f"group '{size}' has {available[size]:,} rows, too few for group '{empty[0]}' to have a row in its share"
        raise fail(sources[0].path, what, "Give it more rows, or change the shares.")
    return sizes


def _group(source: Source) -> str:
    return source.group or ""


def _draw_shares(sources: Sequence[Source], seed: int, bad: BadRows) -> Iterator[SourceRow]:
    good = [_count_good(source, bad) for source in sources]
    offered = [rows_to_take(source, rows) for source, rows in zip(sources, good, strict=True)]
    choices = {
        group: _choice(count, available, random.Random(f"share {group} {seed}"))
        for group, (count, available) in group_sizes(sources, offered).items()
    }
    for source, rows in zip(sources, good, strict=True):
        choice = choices[_group(source)]
        yield from (source_row for source_row in _choose(source, rows, seed) if next(choice))


def _ignore(where: str, row: object, bad: BadRow) -> None:
    """The `Report` of the second reading: the first has told of every bad row."""


def _choice(count: int, available: int, chance: random.Random) -> Iterator[bool]:
    """`available` answers, exactly `count` of them true, every subset alike (Knuth, vol. 2, 3.4.2, algorithm S)."""
    for left in range(available, 0, -1):
        # count / left is the exact share still to be chosen, so that the last ones come out right whatever came before
        is_chosen = chance.random() * left < count
        count -= is_chosen
        yield is_chosen


# Splits


def conversation_key(row: Row) -> str:
    """A hash of how a row opens: system message and first user message, or the text.

    Rows that open alike belong together: they are answers to one prompt, or lengths of one conversation.
    """
    if "text" in row:
        return _hash(row["text"].strip()).hex()
    messages = row["messages"] if "messages" in row else row["prompt"]
    opening: list[Message] = []
    for message in messages:
        opening.append(message)
        if message["role"] == "user":
            break
    return _hash(*_flat(opening)).hex()


def eval_side(row: Row, fraction: float, seed: int) -> bool:
    """Whether the row is held out: about `fraction` of all conversations, each whole on one side."""
    number = int.from_bytes(_hash(str(seed), conversation_key(row))[:8], "big")
    return number < fraction * 2**64


class Leakage:
    """Finds rows for evaluation whose whole prompt is also trained on; 16 bytes a row on each side."""

    def __init__(self) -> None:
        self._sides = {"train": _Prompts(), "eval": _Prompts()}

    def add(self, side: Literal["train", "eval"], source_row: SourceRow) -> None:
        self._sides[side].add(*source_row)

    def problems(self) -> list[Problem]:
        """One problem for each row on the evaluation side that leaks, in the order they were added."""
        import numpy as np

        train, held_out = self._sides["train"], self._sides["eval"]
        trained_prompts, held_out_prompts = (np.array(side.hashes, dtype=np.uint64) for side in (train, held_out))
        shared, first = np.intersect1d(trained_prompts, held_out_prompts, return_indices=True)[:2]
        leaking = np.flatnonzero(np.isin(held_out_prompts, shared))
        trained_at = first[np.searchsorted(shared, held_out_prompts[leaking])]
        return [
            Problem(held_out.where(int(row)), f"its prompt is trained on too, at {train.where(int(other))}", LEAK_FIX)
            for row, other in zip(leaking, trained_at, strict=True)
        ]

    def raise_any(self) -> None:
        """Raise one `UserError` that names the first leaking rows and counts the others."""
        problems = self.problems()
        if not problems:
            return
        shown, hidden = problems[:SHOWN], len(problems) - SHOWN
        if hidden > 0:
            what = f"and {hidden:,} more rows that leak, {len(problems):,} in all"
            shown.append(Problem(shown[-1].where.rpartition(":")[0], what))
        raise UserError(shown)


class _Prompts:
    """Hash and place of each row: 8 bytes and 8 bytes."""

    def __init__(self) -> None:
        self.hashes = array("Q")
        self.places = array("Q")
        self.files: dict[str, int] = {}

    def add(self, where: str, row: Row) -> None:
        file, _, line = where.rpartition(":")
        number = self.files.setdefault(file, len(self.files))
        self.hashes.append(int.from_bytes(_hash(*_prompt_of(row))[:8], "big"))
        self.places.append(number << PLACE_BITS | int(line))

    def where(self, row: int) -> str:
        file = list(self.files)[self.places[row] >> PLACE_BITS]
        return f"{file}:{self.places[row] & (1 << PLACE_BITS) - 1}"


def _prompt_of(row: Row) -> list[str]:
    """What a model would be asked: everything before the last answer, or the text."""
    if "text" in row:
        return [row["text"].strip()]
    if "messages" not in row:
        return _flat(row["prompt"])
    messages = row["messages"]
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return _flat(messages[: answers[-1]] if answers else messages)


def _flat(messages: list[Message]) -> list[str]:
    return [part for message in words(messages) for part in message]


def _hash(*parts: str) -> bytes:
    """16 bytes; the length before each part keeps ("ab", "c") and ("a", "bc") apart."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()
