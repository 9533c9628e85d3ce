"""Imports of large libraries, in less time."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


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


def import_when_used() -> None:
    """Let this process import what few stages use only where it is used: wandb, which TRL and transformers import to
    ask whether it is there, and torch's compiler, which bitsandbytes asks for when it is imported. Call it before the
    first of them is imported; a second call changes nothing."""
    spec = importlib.util.find_spec("wandb") if "wandb" not in sys.modules else None
    if spec and spec.origin:  # without one it is a folder of that name, in which wandb has left its runs
        sys.modules["wandb"] = wandb = importlib.util.module_from_spec(spec)
        wandb.__class__ = _ModuleWhenUsed
        wandb.run = None  # type: ignore[attr-defined] # as before its init(); transformers asks for it
    if not any(isinstance(finder, _BitsandbytesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BitsandbytesFinder())


class _ModuleWhenUsed(ModuleType):
    """A module that is executed when the first of its names is asked for. importlib's LazyLoader executes it for its
    spec too, for which everybody asks."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        if self.__spec__ and self.__spec__.loader:
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _BitsandbytesFinder:
    """Finds bitsandbytes as Python does, and while it is imported lets torch.compile wait for the first call."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "bitsandbytes" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            spec.loader.exec_module = partial(_compile_later, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _compile_later(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    import torch

    compile_now = torch.compile

    def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return partial(compiled, **options)
        made = cache(lambda: compile_now(function, **options))
        return wraps(function)(lambda *args, **kwargs: made()(*args, **kwargs))

    torch.compile = compiled  # type: ignore[assignment]
    try:
        execute(module)
    finally:
        torch.compile = compile_now
