"""What a user did wrong, said so that the user can mend it: `where: what. fix`.

Everything a person can cause ends as a `UserError`; the command line prints its lines and exits with 2. Anything else
that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft.printable import printable_line

MOST_LINES = 25  # of an error with more problems the number of the others is told


@dataclass(frozen=True)
class Problem:
    """One thing to mend: `where` is file:line or a key, `what` is wrong with it, `fix` is what to write instead."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        """One line, whatever a file, a server or a library put into it."""
        where, what, fix = map(printable_line, (self.where, self.what, self.fix))
        return f"{where}: {what if what[-1:] in '.!?' else what + '.'} {fix}".rstrip()


class UserError(Exception):
    """One or more problems, reported together: a user mends a recipe once, not once a fault."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__(problems)

    def __str__(self) -> str:
        lines = [*map(str, self.problems[:MOST_LINES])]
        more = len(self.problems) - len(lines)
        return "\n".join([*lines, f"… and {more:,} more."] if more else lines)


def fail(where: str, what: str, fix: str = "") -> UserError:
    """The error with one problem: `raise fail("recipes/x.yaml:9", "no format 'chta'", "There are: chat, text.")`."""
    return UserError([Problem(where, what, fix)])


class Problems(list[Problem]):
    """Collects problems so that all are reported at once."""

    def add(self, where: str, what: str, fix: str = "") -> None:
        self.append(Problem(where, what, fix))

    def raise_any(self) -> None:
        """Raise `UserError` with everything collected, in order and without repeats, or return."""
        if self:
            raise UserError(list(dict.fromkeys(self)))
