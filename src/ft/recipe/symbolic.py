"""Symbolic values: what only the machine or an unread library knows, and the ways a program can go for them.

A condition on a `Symbol` is answered by the `ExecutionPath` that is followed. `paths` gives one after the other, until
every combination of answers was tried: the program runs once for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

WITHOUT_ACCELERATOR: Mapping[str, Any] = {
    ".is_available()": False,
    ".is_initialized()": False,
    ".device_count()": 0,
    ".num_processes": 1,
    ".device.type": "cpu",
}
"""What is known of symbols in one process on a machine without an accelerator, by the end of their names."""

MOST_PATHS = 64


class Undecided(BaseException):
    """The source alone does not say it. No Exception, so that a library's `except Exception` lets it pass."""


class Symbol:
    """A value that only the library or the machine knows, by the expression it came from.

    `kind` is the name of its type where that is known.
    """

    def __init__(self, name: str, kind: str = ""):
        self.__dict__.update(name=name, kind=kind)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        name = f"{self.name}.{key}"
        kind = _torch_types().get(key, "") if self.name == "torch" else ""
        if key in _path.words and not kind:  # `getattr(torch, value)` fails where torch has no such thing
            raise Undecided(name)
        return _machine_fact(name, kind)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1 and isinstance(arguments[0], (type, FunctionType)) and not keywords:
            return arguments[0]  # a decorator
        texts = [*map(_text, arguments), *(f"{key}={_text(value)}" for key, value in keywords.items())]
        name = f"{self.name}({', '.join(texts)})"
        if texts:
            _path.call(name)
        return _machine_fact(name)

    def __setattr__(self, key: str, value: object) -> None:
        """What a symbol is told has no effect."""

    def __getitem__(self, key: Any) -> Any:
        return Symbol(f"{self.name}[{_text(key)}]")

    def __bool__(self) -> bool:
        return _path.decide(self.name)

    def __instancecheck__(self, value: object) -> bool:
        if isinstance(value, Symbol):
            return value.kind == self.name if value.kind else _path.decide(f"isinstance({value.name}, {self.name})")
        return False

    def __str__(self) -> str:
        _path.in_text = True
        return self.name

    __repr__ = __str__

    def __format__(self, how: str) -> str:
        return str(self)

    def __hash__(self) -> int:
        return hash(self.name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()  # a base class that is not known adds nothing

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def _operator(sign: str) -> Callable[..., Symbol]:
    return lambda self, *other: Symbol(f"({sign} {' '.join(map(_text, (self, *other)))})")


def _raise_undecided(self: Symbol, *arguments: Any) -> Any:
    raise Undecided(self.name)


_OPERATORS = "lt le gt ge eq ne add sub mul truediv floordiv mod pow and or xor lshift rshift matmul neg pos abs invert"
for _sign in _OPERATORS.split():
    setattr(Symbol, f"__{_sign}__", _operator(_sign))
    setattr(Symbol, f"__r{_sign}__", _operator(f"r{_sign}"))
for _sign in ("iter", "len", "int", "float", "index", "complex", "round", "next"):
    setattr(Symbol, f"__{_sign}__", _raise_undecided)


def _machine_fact(name: str, kind: str = "") -> Any:
    return next((fact for end, fact in WITHOUT_ACCELERATOR.items() if name.endswith(end)), Symbol(name, kind))


def _text(value: object) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    plain = value is None or isinstance(value, (bool, int, float, str, Enum))
    return repr(value) if plain else f"<{type(value).__name__}>"


@cache
def _torch_types() -> dict[str, str]:
    """Names in torch that its own type stubs give a type, as in `bfloat16: dtype`."""
    package = find_spec("torch")
    stubs = Path(package.origin).parent / "_C" / "__init__.pyi" if package and package.origin else None
    text = stubs.read_text(encoding="utf-8") if stubs and stubs.is_file() else ""
    return {name: f"torch.{kind}" for name, kind in re.findall(r"^(\w+): (\w+) = \.\.\.", text, re.MULTILINE)}


@dataclass
class ExecutionPath:
    """One way through the conditions on symbols: the answers given so far, in order.

    words   what a block holds, where a name asked of a symbol could come from
    calls   what was called with arguments; `default_calls` are those made by a class's defaults, which it takes
    in_text whether a symbol was written into a text, such as a message
    """

    answers: list[bool] = field(default_factory=list)
    words: frozenset[str] = frozenset()
    default_calls: frozenset[str] | None = None
    calls: set[str] = field(default_factory=set)
    known: dict[str, bool] = field(default_factory=dict)
    in_text: bool = False

    def decide(self, name: str) -> bool:
        if name not in self.known:
            place = len(self.known)
            self.answers += [False] * (place == len(self.answers))
            self.known[name] = self.answers[place]
        return self.known[name]

    def call(self, name: str) -> None:
        self.calls.add(name)
        if self.default_calls is not None and name not in self.default_calls and not name.startswith("logging."):
            raise Undecided(name)


class _Defining(ExecutionPath):
    """While classes are made nothing is followed both ways."""

    def decide(self, name: str) -> bool:
        raise Undecided(name)


_path: ExecutionPath = _Defining()


@contextmanager
def following(path: ExecutionPath) -> Iterator[None]:
    """Conditions on symbols are answered by this path."""
    global _path
    before, _path = _path, path
    try:
        yield
    finally:
        _path = before


def paths(words: frozenset[str], default_calls: frozenset[str] | None) -> Iterator[ExecutionPath]:
    """All ways through the conditions on symbols, each known when the one before it was gone."""
    answers: list[bool] = []
    for _ in range(MOST_PATHS):
        path = ExecutionPath(answers, words, default_calls)
        yield path
        answers = path.answers[: len(path.known)]
        while answers and answers[-1]:
            answers.pop()
        if not answers:
            return
        answers[-1] = True
    raise Undecided(f"more than {MOST_PATHS} paths")
