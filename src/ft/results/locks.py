"""Locks of a runs folder: what one command makes, no other makes or removes.

A lock falls with its process, however that ends.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ft import artifacts
from ft.errors import fail


@contextmanager
def hold_lock(file: Path, wait: bool = True) -> Iterator[None]:
    """Raises BlockingIOError when it is taken and not waited for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@contextmanager
def hold_result(runs: Path, folder: Path) -> Iterator[None]:
    """Two commands never make the same result at once, under whatever recipe's name."""
    try:
        with (
            hold_lock(artifacts.lock_file(runs, folder.name), wait=False),
            hold_lock(artifacts.result_lock(runs, folder), wait=False),
        ):
            yield
    except BlockingIOError:
        raise fail(str(folder), "another `ft run` is making this result", "Wait for it, or stop it.") from None


def is_held(file: Path) -> bool:
    """Whether a command holds the lock now."""
    try:
        with file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        return False
    return False
