"""How far long work has come: a bar on a terminal, a line now and then elsewhere. On stderr, which is for talk."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINES = "FT_PROGRESS_IN_LINES"
"""Set where several stages share a terminal, so that their bars would overwrite each other."""
SECONDS_BETWEEN_LINES = 30.0


def on_terminal() -> bool:
    """Whether stderr is this process's own terminal."""
    return sys.stderr.isatty() and LINES not in os.environ


class Progress:
    """Counts what is done, and shows it with its speed, the time left and whatever is noted beside it.

    name    what is done, before the count: "questions: answers"
    total   how many there are; None where nobody knows
    done    how many were done before, by a run that was killed: they say nothing of the speed
    unit    of the speed, in the plural; "" shows none
    quiet   show nothing, as on all processes but the first
    """

    def __init__(
        self,
        name: str,
        total: int | None = None,
        done: int = 0,
        unit: str = "",
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.total, self.done, self.unit, self.quiet = name, total, done, unit, quiet
        self.clock, self.before, self.tokens, self.note = clock, done, 0, ""
        self.started = self.last_line = clock()
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        if on_terminal() and not self.quiet:
            self.bar = _bar(known=self.total is not None)
            self.task = self.bar.add_task(self.name, total=self.total, completed=self.done, text="")
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, count: int, tokens: int = 0) -> None:
        """So many more are done; `tokens` were generated for them."""
        self.tokens += tokens
        self.reach(self.done + count)

    def reach(self, done: int, note: str | None = None, line: bool = False) -> None:
        """So many are done. `note` is shown from now on; `line` asks for a line where there is no bar."""
        self.done, self.note = done, self.note if note is None else note
        if self.quiet:
            return
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, text="  ".join(self._speeds()))
        elif line or self.clock() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = self.clock()
            print(self._line(), file=sys.stderr)

    def _line(self) -> str:
        count = f"{self.name} {self.done:,}" + (f"/{self.total:,}" if self.total is not None else "")
        return "  ".join([count, *self._speeds(), *self._time_left()])

    def _speeds(self) -> list[str]:
        seconds = self.clock() - self.started
        shown = [self.note] if self.note else []
        if self.unit and seconds:
            shown.append(f"{(self.done - self.before) / seconds:,.1f} {self.unit}/s")
        if self.tokens and seconds:
            shown.append(f"{self.tokens / seconds:,.0f} tokens/s")
        return shown

    def _time_left(self) -> list[str]:
        finished, seconds = self.done - self.before, self.clock() - self.started
        if self.total is None or finished <= 0 or self.done >= self.total:
            return []
        return [f"{seconds / finished * (self.total - self.done):.0f} s left"]


def _bar(known: bool) -> Bar:
    """Rich's bar; one of an unknown total is a count, and goes when the work is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from ft.console import Terminal

    text, console = TextColumn("{task.fields[text]}", markup=False), Terminal(stderr=True, soft_wrap=False)
    name = TextColumn("{task.description}", markup=False)
    if not known:
        count = TextColumn("{task.completed:,.0f}")
        return Bar(name, count, text, TimeElapsedColumn(), console=console, transient=True)
    left = (TextColumn("left"), TimeRemainingColumn())
    return Bar(name, BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), *left, console=console)
