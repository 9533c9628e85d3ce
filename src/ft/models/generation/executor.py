"""Where batches of inference are computed: in this process, or by actors of Ray. A stage does not know which.

To compute with something else, write an Executor and name it in `use_engine`.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ft.errors import UserError
from ft.recipe.engine import EngineOptions

log = logging.getLogger(__name__)

Tick = Callable[[int, int], None]
Entry = Mapping[str, Any]


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


Item = TypeVar("Item", bound=Keyed)
Model = TypeVar("Model")
Work = Callable[[Model, Sequence[Item], Tick], Iterable[tuple[str, Entry]]]
"""(key, entry) of each item of a batch. It and the items can be pickled, so that another process may have them."""


class Loader(Generic[Model]):
    """A model that is loaded where it is used, and at its first use. A pickled copy is not loaded."""

    def __init__(self, load: Callable[..., Model], *arguments: object):
        self.load, self.arguments = load, arguments
        self._loaded: list[Model] = []

    def __call__(self) -> Model:
        if not self._loaded:
            self._loaded.append(self.load(*self.arguments))
        return self._loaded[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Loader, (self.load, *self.arguments)

    @property
    def identity(self) -> bytes:
        """Equal for loaders of one model."""
        return pickle.dumps(self)

    def unload(self) -> None:
        """Let the model go, here and in actors: another needs the memory next."""
        self._loaded.clear()
        executor().unload(self)


class Stream(Protocol):
    def submit(self, item: Any) -> None:
        """Let it be computed; nobody waits."""
        ...

    def result(self, item: Any) -> Entry:
        """Its entry, waited for; submitted where it was not."""
        ...


class Executor(Protocol):
    def compute(
        self, model: Loader[Any], work: Work[Any, Any], batches: Sequence[Sequence[Any]], tick: Tick
    ) -> Iterator[tuple[int, Iterable[tuple[str, Entry]]]]:
        """(place of the batch, its entries) of every batch, in whatever order they are finished.

        Raises what `work` raises: UserError at once, anything else where no item of a batch can be computed.
        """
        ...

    def unload(self, model: Loader[Any]) -> None:
        """Free the memory that copies of the model take."""
        ...

    def stream(self, model: Loader[Any], work: Work[Any, Any]) -> Stream:
        """Where items are computed one by one while the caller does something else."""
        ...


@dataclass(frozen=True)
class OnDemand:
    """Computes an item when it is asked for: one process does one thing at a time."""

    model: Loader[Any]
    work: Work[Any, Any]

    def submit(self, item: Any) -> None:
        pass

    def result(self, item: Any) -> Entry:
        return dict(self.work(self.model(), [item], lambda finished, tokens: None))[item.key]


class InProcess:
    """One batch after the other, entry by entry as they come."""

    def compute(
        self, model: Loader[Any], work: Work[Any, Any], batches: Sequence[Sequence[Any]], tick: Tick
    ) -> Iterator[tuple[int, Iterable[tuple[str, Entry]]]]:
        for place, batch in enumerate(batches):
            yield place, entries_of(model(), work, batch, tick, known_to_work=place > 0)

    def unload(self, model: Loader[Any]) -> None:
        pass

    def stream(self, model: Loader[Any], work: Work[Any, Any]) -> Stream:
        return OnDemand(model, work)


def entries_of(
    model: Any, work: Work[Any, Any], batch: Sequence[Any], tick: Tick, known_to_work: bool
) -> Iterator[tuple[str, Entry]]:
    """What `work` makes of a batch. Where it fails, each item that lacks is computed alone, so that a bad one costs no
    other; its entry says why it `failed`. Where all of them fail and nothing else was computed before it is no matter
    of items, and the error is raised."""
    made: set[str] = set()
    failed: list[tuple[str, Entry]] = []
    try:
        for key, entry in work(model, batch, tick):
            made.add(key)
            yield key, entry
        return
    except UserError:
        raise
    except Exception as error:
        first_error = error
    log.warning("a batch failed, and is computed item by item: %s", reason(first_error))
    for item in batch:
        if item.key in made:
            continue
        try:
            entries = list(work(model, [item], tick))
        except UserError:
            raise
        except Exception as error:
            failed.append((item.key, {"failed": reason(error)}))
        else:
            made.add(item.key)
            yield from entries
    if not made and not known_to_work:
        raise first_error
    yield from failed


def reason(error: BaseException) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".removesuffix(": ")


_IN_PROCESS = InProcess()
_executors: list[Executor] = [_IN_PROCESS]


def executor() -> Executor:
    """The one in use."""
    return _executors[-1]


@contextmanager
def use_engine(options: EngineOptions, folder: Path, where: str, trains: bool = False) -> Iterator[None]:
    """Batches are computed as `options` say until the block ends. `folder` is the stage's, for logs; `trains`: this
    process needs its GPU for itself."""
    if options.kind == "local":
        yield
        return
    from ft.models.generation.ray_executor import RayExecutor

    with RayExecutor(options, folder, where, trains) as ray_executor:
        _executors.append(ray_executor)
        try:
            yield
        finally:
            _executors.remove(ray_executor)
