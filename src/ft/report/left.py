"""What a stage left in its folder, read as far as it can be: what is broken is said, and counts as absent."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MOST_LINES = 20_000  # of a file of lines; a report shows a few, and curves are thinned


class Left:
    """A folder and what was read of it. `taken` are the names that some section has shown or has no use for; `blocks`
    the values of the stage's recipe."""

    def __init__(self, folder: Path, blocks: Mapping[str, Mapping[str, Any]]):
        self.folder = folder
        self.blocks = blocks
        self.problems: list[str] = []
        self.taken: set[str] = set()

    def json(self, name: str) -> Any:
        """The file's value; None when it is not there or cannot be read."""
        text = self._text(name)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError:
            self.problems.append(f"{name} is broken and was left out.")
            return None

    def mapping(self, name: str) -> dict[str, Any]:
        found = self.json(name)
        if found is not None and not isinstance(found, dict):
            self.problems.append(f"{name} is no mapping and was left out.")
        return found if isinstance(found, dict) else {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The mappings of a file of JSON lines; a line cut off by a kill ends it, and that is said."""
        self.taken.add(name)
        path = self.folder / name
        if not path.is_file():
            return []
        found: list[dict[str, Any]] = []
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(islice(file, MOST_LINES), 1):
                    value = _value(line)
                    if isinstance(value, dict):
                        found.append(value)
                    elif line.strip():
                        self.problems.append(f"{name}:{number} is broken; what stands behind it was left out.")
                        break
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}.")
        return found

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file by column."""
        text = self._text(name)
        return [] if text is None else [row for row in csv.DictReader(text.splitlines()) if None not in row.values()]

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def untold(self, *suffixes: str) -> list[Path]:
        """Files of these kinds that no section has taken."""
        there = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [file for file in there if file.suffix in suffixes and file.name not in self.taken and file.is_file()]

    def _text(self, name: str) -> str | None:
        self.taken.add(name)
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}.")
            return None


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def number(value: Any) -> float | None:
    """A cell of a table as a number; None where it holds none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def words(value: Any) -> str:
    """What a message, a list of messages or a plain text says."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return words(value.get("content"))
    if isinstance(value, list):
        return "\n".join(words(one) for one in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
