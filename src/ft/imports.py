"""Imports of large libraries, in two thirds of the time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While modules are imported nothing becomes garbage, and looking for it takes a third of the time: torch,
    transformers and TRL make a million objects. What is there afterwards is not looked through again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
