"""A sequence of more members than memory should hold: each is made again whenever it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

Member = TypeVar("Member", covariant=True)


class LazySequence(Sequence[Member], Generic[Member]):
    """`length` members, of which `make` makes the one at a place from 0; a slice is a list."""

    def __init__(self, length: int, make: Callable[[int], Member]):
        self._places, self._make = range(length), make

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Member: ...

    @overload
    def __getitem__(self, place: slice) -> list[Member]: ...

    def __getitem__(self, place: int | slice) -> Member | list[Member]:
        if isinstance(place, slice):
            return [self._make(n) for n in self._places[place]]
        return self._make(self._places[place])


def joined(first: Sequence[Member], second: Sequence[Member]) -> LazySequence[Member]:
    """The members of both, one sequence behind the other."""
    count = len(first)
    return LazySequence(count + len(second), lambda place: first[place] if place < count else second[place - count])
