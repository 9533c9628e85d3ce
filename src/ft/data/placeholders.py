"""Rows that still hold a `{{name}}` that a script was to fill in: read as they are, and the user is told."""

from __future__ import annotations

import re
from collections import Counter

from ft.data.formats.fields import Row
from ft.secret_files import texts_in

PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.]*\s*\}\}")
SHOWN = 4


class Placeholders:
    """Counts the rows that hold any, and how many hold each."""

    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        found = {name for text in texts_in(row) if "{{" in text for name in PLACEHOLDER.findall(text)}
        self.rows += bool(found)
        self.counts.update(sorted(found))

    @property
    def notes(self) -> list[str]:
        """One sentence, or none."""
        if not self.rows:
            return []
        names = ", ".join(name for name, _ in self.counts.most_common(SHOWN))
        hold = "row holds" if self.rows == 1 else "rows hold"
        return [f"{self.rows:,} {hold} placeholders ({names}), read as they stand: fill in what is not meant."]
