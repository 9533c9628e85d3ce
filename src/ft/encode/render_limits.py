"""Bounds on what a chat template may take: it is a program of whoever wrote the model, and may never end."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ft.errors import UserError, fail

SECONDS = 10.0
"""Of the processor, for a call, and a second more for each million characters of the messages."""
BYTES = 2 << 30
CHARACTERS = 200_000
"""Of what it writes, and this many times what the messages hold:"""
TIMES = 20
STATM = Path("/proc/self/statm")


class _OutOfTime(Exception):
    pass


@contextmanager
def limits(characters: int) -> Iterator[None]:
    """Raises UserError where a template that renders so many characters of messages takes too long, or too much memory.

    Both are limits of the operating system on this process, put back at the end; so only the main thread has them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = SECONDS + characters / 1e6
    try:
        with _memory(), _processor(seconds):
            yield
    except _OutOfTime:
        raise _refusal(f"it did not end in {seconds:.0f} seconds") from None
    except MemoryError:
        raise _refusal(f"it takes more than {BYTES >> 30} GiB of memory") from None


def check_length(text: str, characters: int) -> None:
    """Raises UserError where the text is much longer than the messages it was made of."""
    if len(text) > CHARACTERS + TIMES * characters:
        raise _refusal(f"it writes {len(text):,} characters for {characters:,} of messages")


def _refusal(what: str) -> UserError:
    return fail("chat template", what, "Look at its loops and repetitions, or use another.")


@contextmanager
def _processor(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory() -> Iterator[None]:
    """One operation, as `'x' * 10**10`, cannot be interrupted, but it can be refused the memory."""
    if not STATM.exists():  # no Linux
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limit = now + BYTES
    allowed = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *allowed]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
