"""Entries in a file of JSON lines, looked up by key without being held in memory: 16 bytes of each are."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ft.files import atomic

KEY = b'{"key": "'
"""How `ft.files.json_line` begins a line of these."""


class EntryFile(Mapping[str, Mapping[str, Any]]):
    """Key → entry. The file may grow, and what is there when this is made counts: whole lines, as far as one can be
    read; of a key that stands twice the last. Keys are found fastest in the order of the file."""

    def __init__(self, file: Path):
        import numpy as np

        self._lines: mmap.mmap | bytes = b""
        if file.exists() and file.stat().st_size:
            with file.open("rb") as content:
                self._lines = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
        hashes, starts = array("q"), array("q", [0])
        for line in iter(self._lines.readline, b"") if isinstance(self._lines, mmap.mmap) else ():
            key = _key(line)
            if key is None:
                break
            hashes.append(hash(key))
            starts.append(starts[-1] + len(line))
        self._starts = starts
        unordered = np.frombuffer(hashes, np.int64) if hashes else np.empty(0, np.int64)
        self._order = np.argsort(unordered, kind="stable")
        self._hashes = unordered[self._order]
        self._has_repeats = bool((self._hashes[1:] == self._hashes[:-1]).any())
        self._next = 0  # where the next key stands, if keys are asked for in the order of the file

    @property
    def is_cut(self) -> bool:
        """Whether something stands behind the last line that can be read."""
        return len(self._lines) > self._starts[-1]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (str(json.loads(self._line(place))["key"]) for place in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.place(key) is not None

    def __getitem__(self, key: str) -> dict[str, Any]:
        place = self.place(key)
        if place is None:
            raise KeyError(key)
        entry: dict[str, Any] = json.loads(self._line(place).decode())  # of bytes json would guess the encoding
        del entry["key"]
        return entry

    def place(self, key: str) -> int | None:
        """Of the key's line in the file, from 0."""
        text = key.encode()
        if self._next < len(self) and not self._has_repeats and self._has_key(self._next, text):
            self._next += 1
            return self._next - 1
        number = self._hashes.searchsorted(hash(text), side="right") - 1
        while number >= 0 and self._hashes[number] == hash(text):
            place = int(self._order[number])
            if _key(self._line(place)) == text:
                self._next = place + 1
                return place
            number -= 1  # another key of the same hash
        return None

    def _has_key(self, place: int, text: bytes) -> bool:
        """Whether the line's key is this one, by its first bytes alone; False for one that JSON writes otherwise."""
        start = self._starts[place] + len(KEY)
        return self._lines[start : start + len(text) + 1] == text + b'"' and b"\\" not in text

    def _line(self, place: int) -> bytes:
        return bytes(self._lines[self._starts[place] : self._starts[place + 1]])

    def write_in_order(self, file: Path, keys: Iterable[str]) -> None:
        """A file of these keys' lines alone."""
        with atomic(file) as beside, beside.open("wb") as out:
            out.writelines(self._line(place) for key in keys if (place := self.place(key)) is not None)


def _key(line: bytes) -> bytes | None:
    """The line's key; None where it is cut, or no entry."""
    if not (line.startswith(KEY) and line.endswith(b"}\n")):
        return None
    text = line[len(KEY) : line.index(b'"', len(KEY))]
    if b"\\" not in text:
        return text
    try:
        return str(json.loads(line)["key"]).encode()
    except ValueError:
        return None
