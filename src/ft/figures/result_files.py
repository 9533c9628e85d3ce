"""The files of a result's folder, read as far as they can be: a broken one counts as absent, and is named."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

MOST_LINES = 20_000  # of a file of lines; a report shows a few, and curves are thinned


class ResultFiles:
    """A folder, and what could not be read of it. `shown` are the names that some section shows or has no use for;
    `blocks` the values of the stage's recipe."""

    def __init__(self, folder: Path, blocks: Mapping[str, Mapping[str, Any]] | None = None):
        self.folder = folder
        self.blocks = blocks or {}
        self.problems: list[str] = []
        self.shown: set[str] = set()

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
        value = self.json(name)
        if value is not None and not isinstance(value, dict):
            self.problems.append(f"{name} is no mapping and was left out.")
        return value if isinstance(value, dict) else {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The mappings of a file of JSON lines; a line that a kill cut off ends it, and is named."""
        self.shown.add(name)
        path = self.folder / name
        if not path.is_file():
            return []
        mappings: list[dict[str, Any]] = []
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(islice(file, MOST_LINES), 1):
                    value = _value(line)
                    if isinstance(value, dict):
                        mappings.append(value)
                    elif line.strip():
                        self.problems.append(f"{name}:{number} is broken; what stands behind it was left out.")
                        break
        except OSError as error:
            self.problems.append(f"{name} cannot be read: {error.strerror}.")
        return mappings

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file by column."""
        text = self._text(name)
        return [] if text is None else [row for row in csv.DictReader(text.splitlines()) if None not in row.values()]

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def not_shown(self, *suffixes: str) -> list[Path]:
        """Files of these kinds that no section shows."""
        files = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        return [file for file in files if file.suffix in suffixes and file.name not in self.shown and file.is_file()]

    def replace_pictures(self, *stems: str) -> None:
        """These pictures show what a chart of the page shows; PNGs are from versions that drew them."""
        self.shown |= {f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png")}

    def _text(self, name: str) -> str | None:
        self.shown.add(name)
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


def text_of(value: object) -> str:
    """The text of a message, of a list of messages, or of a plain string."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content"))
    if isinstance(value, list):
        return "\n".join(text_of(one) for one in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
