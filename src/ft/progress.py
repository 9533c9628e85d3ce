"""How far long work has come: a bar on a terminal, a line now and then elsewhere. On stderr, which is for talk."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINES = "FT_PROGRESS_IN_LINES"
"""Set where several stages share a terminal, so that their bars would overwrite each other."""
SECONDS_BETWEEN_LINES = 30.0


def on_terminal() -> bool:
    """Whether stderr is this process's own terminal."""
    return sys.stderr.isatty() and LINES not in os.environ


def clock_time(seconds: float) -> str:
    """'0:05', '2:50', '1:31:05'."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what is waited for: on a terminal while it lasts, elsewhere where it lasts long. Nothing beside a bar."""
    if Progress.shown or not on_terminal():
        ended = threading.Event()
        if not Progress.shown:
            threading.Thread(target=_say_after, args=(what, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
        return
    from ft.console import Terminal

    Progress.shown = True
    try:
        with Terminal(stderr=True).status(what):
            yield
    finally:
        Progress.shown = False


def _say_after(what: str, ended: threading.Event) -> None:
    if not ended.wait(SECONDS_BETWEEN_LINES):
        print(f"{what} …", file=sys.stderr)


class Progress:
    """Counts what is done, and shows it with its speed, the time left and whatever is noted beside it.

    name    what is done, before the count: "questions: answers"
    total   how many there are; None where nobody knows
    done    how many were done before, by a run that was killed: they say nothing of the speed
    unit    of the speed, in the plural; "" shows none
    quiet   show nothing, as on all processes but the first
    share   where there is no total: from 0 to 1 how much is done, by another measure, as bytes of a file
    """

    shown: ClassVar[bool] = False  # something moves on the terminal, which has room for one such thing

    def __init__(
        self,
        name: str,
        total: int | None = None,
        done: int = 0,
        unit: str = "",
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] | None = None,
    ):
        self.name, self.total, self.done, self.unit, self.quiet = name, total, done, unit, quiet
        self.clock, self.before, self.tokens, self.share = clock, done, 0, share
        self.notes: Sequence[str] = ()
        self.started = self.last_line = clock()
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        if self.quiet:
            return self
        if on_terminal():
            self.bar = _bar(known=self._share() is not None)
            self.task = self.bar.add_task(self.name, total=1.0, count=self._count(), text="", left="")
            self.bar.start()
            Progress.shown = True
        else:
            threading.Thread(target=self._print_now_and_then, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()
        if self.bar:
            self.bar.stop()
            Progress.shown = False

    def advance(self, count: int, tokens: int = 0) -> None:
        """So many more are done; `tokens` were generated for them."""
        self.tokens += tokens
        self.reach(self.done + count)

    def reach(self, done: int, notes: Sequence[str] | None = None, line: bool = False) -> None:
        """So many are done. `notes` are shown from now on, the first ones where there is little room; `line` asks for a
        line where there is no bar."""
        self.done, self.notes = done, self.notes if notes is None else notes
        if self.quiet:
            return
        if self.bar and self.task is not None:
            text, left = self._fitting(self.bar.console.width), "  ".join(self._time_left())
            self.bar.update(self.task, completed=self._share(), count=self._count(), text=text, left=left)
        elif line or self.clock() - self.last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def _print_now_and_then(self) -> None:
        """One item may take longer than people like to wait for a word."""
        while not self.ended.wait(SECONDS_BETWEEN_LINES):
            if self.clock() - self.last_line >= SECONDS_BETWEEN_LINES:
                self._print_line()

    def _print_line(self) -> None:
        self.last_line = self.clock()
        print("  ".join([f"{self.name} {self._count()}", *self._speeds(), *self._time_left()]), file=sys.stderr)

    def _share(self) -> float | None:
        """How much is done, from 0 to 1; None where nobody knows."""
        if self.total is None:
            return min(1.0, self.share()) if self.share else None
        return self.done / self.total if self.total else 1.0

    def _count(self) -> str:
        if self.total is not None:
            return f"{self.done:,}/{self.total:,}"
        share = self._share()
        return f"{self.done:,}" + (f" ({share:.0%})" if share is not None else "")

    def _speeds(self) -> list[str]:
        seconds = self.clock() - self.started
        shown = list(self.notes)
        if self.unit and seconds:
            shown.append(f"{(self.done - self.before) / seconds:,.1f} {self.unit}/s")
        if self.tokens and seconds:
            shown.append(f"{self.tokens / seconds:,.0f} tokens/s")
        return shown

    def _fitting(self, width: int) -> str:
        """What of the notes and speeds has room in a bar's line."""
        room = width - len(self.name) - len(self._count()) - _bar_width(width) - BESIDE_BAR
        text = ""
        for part in self._speeds():
            if len(text) + len(part) + 2 > room:
                break
            text += f"  {part}" if text else part
        return text

    def _time_left(self) -> list[str]:
        share, seconds = self._share(), self.clock() - self.started
        before = self.before / self.total if self.total else 0.0
        if share is None or share <= before or share >= 1:
            return []
        return [f"{clock_time(seconds * (1 - share) / (share - before))} left"]


BESIDE_BAR = 30
"""Columns of the gaps, the time and the time left."""


def _bar_width(width: int) -> int:
    return 40 if width >= 160 else 20 if width >= 110 else 10


def _bar(known: bool) -> Bar:
    """Rich's bar; one of an unknown total is a count, and goes when the work is done."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from ft.console import Terminal

    console = Terminal(stderr=True, soft_wrap=False)
    name, count, text, left = (
        TextColumn(f"{{task.{field}}}", markup=False)
        for field in ("description", "fields[count]", "fields[text]", "fields[left]")
    )
    bar = [BarColumn(_bar_width(console.width))] if known else []
    return Bar(name, *bar, count, text, TimeElapsedColumn(), left, console=console, transient=not known)
