"""What `ft plan` says of a recipe's engine: which stages it computes, where, and whether it pays."""

from __future__ import annotations

from collections.abc import Sequence

from ft.models.device import cores
from ft.recipe.engine import EngineOptions
from ft.results.store import Plan, PlannedStage
from ft.run.fork_server import has_accelerator

START_UP, MEMORY = 6.0, 1.2  # seconds and GiB of Ray on an idle machine of two cores, without any work (docs/scale.md)


def describe_engine(plan: Plan) -> list[str]:
    """Lines for people; none where no engine is named, or nothing is pending that it would compute."""
    engine = plan.recipe.engine
    pending = [planned for planned in plan.stages if not planned.done]
    if engine.kind == "local":
        return []
    computed = [planned for planned in pending if planned.stage.kind.infers and not _asks_server(planned)]
    if not computed:
        return ["engine: no pending stage is computed by Ray; leave it out"]
    others = [planned for planned in pending if planned not in computed]
    actors = _actors_here(engine)
    lines = [f"engine: {_names(computed)} on {engine.place}, by {_actors(engine, actors)}"]
    if others:
        lines.append(f"engine: {_names(others)} in a process of the stage's own, as without it")
    return [*lines, f"engine: {_worth(engine, actors)}"]


def _asks_server(planned: PlannedStage) -> bool:
    """A server has its own concurrency, and is asked from one place."""
    return planned.stage.blocks.get("backend", {}).get("kind") == "server"


def _names(stages: Sequence[PlannedStage]) -> str:
    return ", ".join(planned.name for planned in stages)


def _actors_here(engine: EngineOptions) -> int | None:
    """How many actors this machine has room for; None: a cluster knows."""
    if engine.address:
        return engine.actors
    if engine.gpus == 0 or not has_accelerator():
        return engine.actors or max(1, cores() // engine.cpus)
    from ft.models.device import gpus

    return engine.actors or max(1, int(gpus() // (engine.gpus or 1)))


def _actors(engine: EngineOptions, count: int | None) -> str:
    gpus = f"{engine.gpus:g} GPUs" if engine.gpus is not None else "1 GPU where there are any"
    number = "as many actors as there is room for" if count is None else f"{count} actors" if count > 1 else "1 actor"
    return f"{number}, each with {engine.cpus} CPU{'s' if engine.cpus > 1 else ''} and {gpus}"


def _worth(engine: EngineOptions, count: int | None) -> str:
    if count is None:
        return "it pays where the cluster has more GPUs than this machine, and a stage takes minutes"
    if count == 1:
        return "one actor is no faster than the stage's own process; it pays from two on"
    seconds = START_UP * count / (count - 1)
    text = f"Ray takes about {START_UP:g} s a stage to start and {MEMORY:g} GiB"
    return f"{text}; with {count} actors it pays where a stage takes longer than {seconds:.0f} s without it"
