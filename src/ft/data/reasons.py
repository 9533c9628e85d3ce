"""Bad rows grouped by what is wrong with them, so that a file of one mistake is one line and not a thousand."""

from __future__ import annotations

import re
from collections import Counter

from ft.data.formats.fields import BadRow
from ft.errors import Problem
from ft.printable import shorten

MOST_REASONS = 100  # told apart; a text of the row in a message would make each a reason of its own
FIRST_ROWS = 4  # named of each
LONGEST = 200  # characters
OTHERS = "other reasons"


def reason_of(bad: BadRow) -> str:
    """What is wrong, whatever number stands in it; a text of the row, which may be megabytes, is cut."""
    return re.sub(r"\d+(?:[.,]\d+)*", "…", shorten(bad.what, LONGEST))


class Reasons:
    """Counts bad rows by reason, in the order the reasons come, and remembers the first rows of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, tuple[BadRow, list[str]]] = {}

    def add(self, where: str, bad: BadRow) -> None:
        reason = reason_of(bad)
        if reason not in self._first and len(self._first) >= MOST_REASONS:
            reason, bad = OTHERS, BadRow(OTHERS)
        self.counts[reason] += 1
        wheres = self._first.setdefault(reason, (bad, []))[1]
        if len(wheres) < FIRST_ROWS:
            wheres.append(where)

    @property
    def rows(self) -> int:
        return self.counts.total()

    def problems(self, most: int) -> list[Problem]:
        """The reasons of most rows, each with its count and its first rows; one row alone as it is."""
        return [self._problem(reason, count) for reason, count in self.counts.most_common(most)]

    def _problem(self, reason: str, count: int) -> Problem:
        bad, wheres = self._first[reason]
        if count == 1:
            return Problem(wheres[0], bad.what, bad.fix)
        lines = ", ".join(where.rpartition(":")[2] for where in wheres) + (", …" if count > len(wheres) else "")
        return Problem(wheres[0], f"{bad.what} ({count:,} rows like it: {lines})", bad.fix)
