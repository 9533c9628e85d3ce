"""The models that rounds make, and those made of them behind the rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ft.recipe.rounds import Rounds
from ft.report.run import ReportedStage, Run


@dataclass(frozen=True)
class Version:
    """A model that was measured: that of a round, or one made of it by stages behind the rounds."""

    name: str
    place: str
    """Its name on an axis, where the rounds have their numbers."""


def measured_alike(rounds: Rounds, name: str, run: Run) -> Iterator[tuple[Version, ReportedStage]]:
    """The stage of that name in every round, and those behind the rounds that ask another model the very same."""
    first = run.get(rounds.stage(name, 1))
    for stage in run.stages:
        number = rounds.number(stage.name)
        if number and stage.name == rounds.stage(name, number):
            yield Version(f"round {number}", str(number)), stage
        elif number is None and first and first.leaves == "metrics" and _asks(stage) == _asks(first):
            model = next((parent for parent, role in stage.links if role == "init"), stage.name)
            yield Version(model, model), stage


def _asks(stage: ReportedStage) -> tuple[object, ...]:
    return stage.kind, stage.data, stage.blocks
