"""Batches of inference computed by actors of Ray, on this machine or on a cluster.

Ray places the actors, carries batches to them and tells when one has ended. Which batch is computed again, and where
what is finished is kept, stays with ft: Ray Data would lose every row of a block that fails.

Needs Ray (`pip install 'ft[ray]'`), and on a cluster ft on every node, which also sees the stage's folders.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ft.errors import UserError, fail
from ft.models.generation.executor import Entry, Loader, Tick, Work, entries_of
from ft.models.generation.ray_cluster import RayCluster
from ft.recipe.engine import EngineOptions

log = logging.getLogger(__name__)

TRIES = 2
"""Actors that may end with a batch before its items are computed one by one, and then with one item."""
STARTS = 3
"""Actors that may end one after the other before one has loaded the model."""
LOOKS = 2.0
"""Seconds between two looks at whether the cluster is there."""

Computed = tuple[list[tuple[str, Entry]], int, int]
"""Entries of items, how many of what is counted they are, and tokens made."""


class InferenceActor:
    """A process of Ray's that holds a copy of the model."""

    def __init__(self, model: Loader[Any]):
        from ft.notices import quiet_libraries

        quiet_libraries()
        self.model = model

    def load(self) -> UserError | None:
        """The error is returned, since Ray would wrap it."""
        from ft.models.device import keep_freed_memory

        try:
            self.model()
        except UserError as error:
            return error
        if "torch" in sys.modules:  # as a stage's own process does, which computes a tenth faster so
            keep_freed_memory()
        return None

    def compute(self, work: Work[Any, Any], items: Sequence[Any], known_to_work: bool) -> Computed | UserError:
        finished = tokens = 0

        def tick(more_finished: int, more_tokens: int) -> None:
            nonlocal finished, tokens
            finished, tokens = finished + more_finished, tokens + more_tokens

        try:
            return list(entries_of(self.model(), work, items, tick, known_to_work)), finished, tokens
        except UserError as error:
            return error


@dataclass
class _Part:
    """Items of the batch at `place` that an actor gets at once; `ends` counts actors that have ended with them."""

    place: int
    items: Sequence[Any]
    ends: int = 0


@dataclass
class BatchQueue:
    """What is still to be computed of some batches, and what has come of them."""

    batches: Sequence[Sequence[Any]]
    returned: deque[_Part] = field(default_factory=deque)
    entries: dict[int, list[tuple[str, Entry]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._untouched = (_Part(place, batch) for place, batch in enumerate(self.batches))

    def next_part(self) -> _Part | None:
        """What is to be computed next: first what was put back. None where all is under way."""
        return self.returned.popleft() if self.returned else next(self._untouched, None)

    def take(self, part: _Part, entries: Sequence[tuple[str, Entry]]) -> list[tuple[str, Entry]] | None:
        """The entries of the whole batch, if it is whole now."""
        found = self.entries.setdefault(part.place, [])
        found += entries
        return self.entries.pop(part.place) if len(found) == len(self.batches[part.place]) else None

    def put_back(self, part: _Part, why: str) -> list[tuple[str, Entry]] | None:
        """Let another actor compute it; one item that goes on ending them has failed."""
        part.ends += 1
        if part.ends < TRIES:
            self.returned.appendleft(part)
        elif len(part.items) > 1:  # an item may be to blame, which shall cost no other
            self.returned.extendleft(_Part(part.place, [item]) for item in reversed(part.items))
        else:
            failed = f"{part.ends} actors ended while they computed it: {why}"
            return self.take(part, [(part.items[0].key, {"failed": failed})])
        return None


class ActorPool:
    """Actors with one model. One that ends is replaced, and gets nothing to do before its model is loaded; so a node
    that is gone for good holds nothing up."""

    def __init__(self, cluster: RayCluster, model: Loader[Any]):
        self.cluster, self.model = cluster, model
        self.actors: list[Any] = []
        self.loading: dict[Any, Any] = {}  # what Ray will tell of → the actor
        self.computing: dict[Any, tuple[Any, _Part]] = {}
        self.failed_starts = 0

    def grow(self, most: int) -> None:
        """Let there be as many as the cluster has room for, and no more than `most`."""
        while len(self.actors) < min(self.cluster.actors, most):
            self._add()

    def _add(self) -> None:
        import ray

        options = {"num_cpus": self.cluster.options.cpus, "num_gpus": self.cluster.gpus}
        # Untyped: methods have `remote` only where Ray wraps them, which mypy sees where Ray is installed
        actor: Any = ray.remote(InferenceActor).options(**options).remote(self.model)
        self.actors.append(actor)
        self.loading[actor.load.remote()] = actor

    def has_idle(self) -> bool:
        return len(self.actors) > len(self.loading) + len(self._under_way())

    def _under_way(self) -> Counter[Any]:
        """Parts of each actor that has some."""
        return Counter(actor for actor, _ in self.computing.values())

    def submit(self, work: Work[Any, Any], part: _Part, known_to_work: bool) -> None:
        """To an actor with a model and the least to do, where there is one."""
        under_way, loading = self._under_way(), set(self.loading.values())
        actor = min(self.actors, key=lambda one: (one in loading, under_way[one]))
        self.computing[actor.compute.remote(work, part.items, known_to_work)] = actor, part

    def wait(self, seconds: float = LOOKS) -> tuple[_Part, Computed | str] | None:
        """What has come of a part: its entries, or why its actor ended. None where nothing has in this time.

        Raises what the work raised, UserError where no model can be loaded or the cluster is gone.
        """
        import ray

        ready, _ = ray.wait([*self.loading, *self.computing], num_returns=1, timeout=seconds)
        self.cluster.check_alive()
        if not ready:
            return None
        actor, part = self.computing.pop(ready[0], (None, None))
        actor = actor or self.loading.pop(ready[0])
        try:
            result = ray.get(ready[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:  # of which an actor that ran out of memory is no RayActorError
            why = _why_ended(error)
            self._replace(actor, why, was_loading=part is None)
            return (part, why) if part else None
        if isinstance(result, UserError):
            raise result
        self.failed_starts = 0
        return (part, result) if part else None

    def _replace(self, actor: Any, why: str, was_loading: bool) -> None:
        if actor not in self.actors:  # it ended with several parts, and has been replaced when the first was told of
            return
        log.warning("an actor has ended, and another takes its place: %s", why)
        self.actors.remove(actor)
        self.failed_starts += was_loading
        if self.failed_starts == STARTS:
            what = f"{STARTS} actors ended before their model was loaded: {why}"
            raise fail(self.cluster.where, what, MORE_ROOM)
        self._add()

    def end(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)


class ActorStream:
    """Items computed one by one in the background, in the order of need."""

    def __init__(self, pool: ActorPool, work: Work[Any, Any]):
        self.pool, self.work = pool, work
        self.entries: dict[str, Entry] = {}
        self.asked: set[str] = set()  # what was submitted and not fetched yet

    def submit(self, item: Any) -> None:
        if item.key not in self.asked:
            self.asked.add(item.key)
            self.pool.submit(self.work, _Part(0, [item]), known_to_work=True)

    def result(self, item: Any) -> Entry:
        """The item's entry, waited for. Raises UserError where it cannot be computed."""
        self.submit(item)
        while item.key not in self.entries:
            if (found := self.pool.wait()) is None:
                continue
            part, result = found
            if not isinstance(result, str):
                self.entries |= dict(result[0])
                continue
            part.ends += 1
            if part.ends == TRIES:
                what = f"{TRIES} actors ended with one batch of the reference: {result}"
                raise fail(self.pool.cluster.where, what, MORE_ROOM)
            self.pool.submit(self.work, part, known_to_work=True)
        self.asked.discard(item.key)
        entry = self.entries.pop(item.key)
        if "failed" in entry:
            raise fail(self.pool.cluster.where, f"the reference failed: {entry['failed']}", "Leave overlapping out.")
        return entry


class RayExecutor:
    """Actors are started for the first model that is needed, and give way to those of the next."""

    def __init__(self, options: EngineOptions, folder: Path, where: str, trains: bool = False):
        self.cluster = RayCluster(options, folder, where, trains)
        self.pool: ActorPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()

    def unload(self, model: Loader[Any]) -> None:
        if self.pool and self.pool.model.identity == model.identity:
            self.pool.end()
            self.pool = None

    def compute(
        self, model: Loader[Any], work: Work[Any, Any], batches: Sequence[Sequence[Any]], tick: Tick
    ) -> Iterator[tuple[int, Iterable[tuple[str, Entry]]]]:
        if not batches:
            return
        pool, queue, left = self._pool_with(model), BatchQueue(batches), len(batches)
        pool.grow(most=left)
        known_to_work = False
        try:
            while left:
                while pool.has_idle() and (next_part := queue.next_part()):
                    pool.submit(work, next_part, known_to_work)
                if (found := pool.wait()) is None:
                    continue
                part, result = found
                if isinstance(result, str):
                    whole = queue.put_back(part, result)
                else:
                    entries, finished, tokens = result
                    known_to_work = True
                    tick(finished, tokens)
                    whole = queue.take(part, entries)
                if whole is not None:
                    left -= 1
                    yield part.place, whole
        finally:
            if left:  # an error: what is under way is of no use to whoever computes next
                self.unload(model)

    def stream(self, model: Loader[Any], work: Work[Any, Any]) -> ActorStream:
        """For work that goes on beside this process's own; as many actors as are asked for, else one."""
        pool = self._pool_with(model)
        pool.grow(most=self.cluster.options.actors or 1)
        return ActorStream(pool, work)

    def _pool_with(self, model: Loader[Any]) -> ActorPool:
        self.cluster.start()
        if self.pool and self.pool.model.identity != model.identity:
            self.unload(self.pool.model)
        self.pool = self.pool or ActorPool(self.cluster, model)
        return self.pool


MORE_ROOM = "Give each actor more room (engine.cpus, engine.gpus), or start fewer (engine.actors)."


def _why_ended(error: Exception) -> str:
    """The one line that counts, of the page that Ray makes of it."""
    text = " ".join(str(error).split())
    if "OutOfMemory" in type(error).__name__ or "memory monitor" in text.lower():
        return "it ran out of memory"
    detail = text.rpartition("Worker exit detail:")[2].partition("Some common causes")[0]
    return detail.strip()[:200] or type(error).__name__
