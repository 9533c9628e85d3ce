"""What answers are worth: by one or two reward models, by functions of ft.rewards, or by both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft.data.formats.messages import BadRow
from ft.data.prompts import Sample
from ft.data.selection import SAFETY_AXIS, piecewise, sigmoid
from ft.models.generation.resumable import Entry, Tick, kept
from ft.models.scorer import Scorer
from ft.rewards import REWARDS, Completions, Prompts, columns_of


@dataclass(frozen=True)
class Scored:
    """`score` is what counts; `parts` is what it is made of: raw scores of reward models, values of functions."""

    score: float
    parts: Mapping[str, float]


def check_columns(rewards: Iterable[str], columns: Mapping[str, Any]) -> None:
    """Raises BadRow where a prompt's row lacks what a function reads."""
    for name in rewards:
        for column in columns_of(name):
            if columns.get(column) is None:
                raise BadRow(f"the reward '{name}' reads the column '{column}'", "Give the row one.")


def said(scores: Mapping[str, float], tagged: bool, threshold: float) -> float:
    """What one or two reward models say of an answer, from 0 to 1, by their raw scores ("helpful", "safety")."""
    shares = {axis: sigmoid(score) for axis, score in scores.items()}
    if len(shares) == 2:
        return piecewise(shares["safety"], shares["helpful"], tagged, threshold)
    return sum(shares.values())


def by_functions(
    rewards: Iterable[str], prompts: Prompts, completions: Completions, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Value of each function for each answer; `rows` hold the prompts' columns."""
    found: list[dict[str, float]] = [{} for _ in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name in rewards if rows else ():
        for one, value in zip(found, REWARDS[name](prompts, completions, **columns), strict=True):
            one[name] = float(value)
    return found


@dataclass(frozen=True)
class Judges:
    """Everything that scores.

    models     "helpful" and "safety" → folder of the reward model; one of them, both or none
    rewards    name of a function in ft.rewards → its weight
    threshold  σ(safety) below which an answer counts as unsafe
    """

    models: Mapping[str, Path]
    rewards: Mapping[str, float]
    threshold: float
    quantization: Mapping[str, Any] | None = None
    batch_size: int = 64
    folder: Path = field(default_factory=Path)
    name: str = ""

    def check(self, columns: Mapping[str, Any]) -> None:
        """Raises BadRow where a prompt's row lacks what a function reads."""
        check_columns(self.rewards, columns)

    def scores(self, samples: Sequence[Sample], file: str) -> dict[str, Scored]:
        """Key → score of each answer, without those that a reward model cannot read. `file` names what is kept."""
        told: dict[str, Mapping[str, Entry]] = {}
        for axis in self.models:
            told[axis] = self._by_model(axis, samples, self.folder / f"{file}-{axis}.jsonl")
        valued = self._by_functions(samples)
        found = {}
        for one in samples:
            parts = {axis: entries[one.key]["score"] for axis, entries in told.items()}
            if None not in parts.values():
                parts |= valued[one.key]
                found[one.key] = Scored(self._total(parts, one.prompt.columns.get("axis") == SAFETY_AXIS), parts)
        return found

    def _total(self, parts: Mapping[str, float], tagged: bool) -> float:
        """The reward models' say, from 0 to 1, and the functions' values by their weights."""
        score = said({axis: parts[axis] for axis in self.models}, tagged, self.threshold)
        return score + sum(weight * parts[name] for name, weight in self.rewards.items())

    def _by_model(self, axis: str, samples: Sequence[Sample], file: Path) -> dict[str, Entry]:
        """Raw scores of one reward model, which is loaded only where some are missing; None where it cannot read."""
        loaded: list[Scorer] = []

        def work(batch: Sequence[Sample], tick: Tick) -> Iterator[tuple[str, Entry]]:
            if not loaded:
                loaded.append(Scorer(self.models[axis], self.quantization))
            rows = loaded[0].rendered([one.conversation for one in batch])
            good = [row for row in rows if not isinstance(row, BadRow)]
            scores = iter(loaded[0].of_ids(good, self.batch_size))
            for one, row in zip(batch, rows, strict=True):
                yield one.key, {"score": None if isinstance(row, BadRow) else next(scores)}
            tick(len(batch), 0)

        return kept(samples, work, file, self.batch_size, f"{self.name}: {axis} scores")

    def _by_functions(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        prompts = [list(one.prompt.messages) for one in samples]
        completions = [one.conversation[-1:] for one in samples]
        found = by_functions(self.rewards, prompts, completions, [one.prompt.columns for one in samples])
        return {one.key: values for one, values in zip(samples, found, strict=True)}
