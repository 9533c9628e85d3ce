"""Which rounds are needed: the `until:` of a recipe's `rounds:`, asked of what the rounds so far have measured.

Nothing is decided before its numbers are there, so a plan counts on every round until then. What was decided follows
from finished results alone, and what stands behind the rounds is named by the round it takes: the same answers come
again in every later command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft.errors import fail
from ft.recipe import Stage
from ft.recipe.rounds import Rounds
from ft.recipe.types import reference

Numbers = Callable[[str], Mapping[str, Any]]
"""The numbers of a stage by its name; {} until it is finished."""


@dataclass(frozen=True)
class Stop:
    """Rounds that end after `number`, since `reason`."""

    rounds: Rounds
    number: int
    reason: str

    @property
    def not_needed(self) -> tuple[str, ...]:
        """The stages of the rounds that are not made, in order."""
        later = range(self.number + 1, self.rounds.times + 1)
        return tuple(self.rounds.stage(name, number) for number in later for name in self.rounds.names)

    def redirect(self, stage: Stage) -> Stage:
        """The stage with what it reads of rounds that are not made replaced by what the last made round left."""
        last = {name: self.rounds.stage(name.rpartition("-")[0], self.number) for name in self.not_needed}
        return replace(
            stage,
            init=last.get(stage.init, stage.init) if stage.init else None,
            inputs={key: last.get(name, name) for key, name in stage.inputs.items()},
            data=_redirect_sources(stage.data, last),
            eval_data=_redirect_sources(stage.eval_data, last),
        )


def _redirect_sources(sources: tuple[Mapping[str, Any], ...], last: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    redirected = []
    for source in sources:
        name = reference(source["path"])
        if name and name in last:
            source = {**source, "path": f"${last[name]}"}
            if source in sources:  # the rows of all rounds: the last made one is among them already
                continue
        if source not in redirected or name not in last:
            redirected.append(source)
    return tuple(redirected)


def find_stop(rounds: Rounds, stage: str, numbers: Numbers) -> Stop | None:
    """Where `stage`, just planned, is what the stop rule reads: whether the rounds end after its own.

    Raises UserError where a finished stage did not leave the number that the rule reads.
    """
    number = rounds.decides(stage)
    if number is None or number == rounds.times:
        return None
    assert rounds.until is not None
    measured = [numbers(rounds.stage(rounds.until.stage, one)) for one in range(1, number + 1)]
    if not all(measured):
        return None
    if lacking := rounds.until.lacking(measured[-1]):
        names = ", ".join(name for name, value in measured[-1].items() if isinstance(value, (int, float)))
        raise fail(rounds.where, f"until: '{stage}' left no finite number {', '.join(lacking)}", f"There are: {names}.")
    reason = rounds.until.enough(measured)
    return Stop(rounds, number, f"after round {number} {reason}") if reason else None
