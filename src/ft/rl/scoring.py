"""Answers scored beside training, and kept in files as they are: for `sample`, Ghost Attention and judges.

What a score is worth is the rule of ft.rl.reward.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft.data.formats.messages import BadRow
from ft.data.prompts import Sample
from ft.lazy_sequence import LazySequence
from ft.models.generation.executor import Entry, Loader, Tick
from ft.models.generation.resumable import compute_entries
from ft.models.scorer import Scorer
from ft.rewards import check_columns
from ft.rl.reward import function_values, is_for_safety, reward_model_share, weighted_sum

SCORED_AT_ONCE = 1024
"""Answers that functions are given at once."""


@dataclass(frozen=True)
class AnswerScore:
    """What counts, `reward`, and what it is made of: raw scores of reward models, None where one cannot read the
    answer, and values of functions."""

    reward: float
    parts: Mapping[str, float | None]

    @property
    def is_readable(self) -> bool:
        """Whether all reward models can read the answer; one that they cannot is never chosen."""
        return None not in self.parts.values()


@dataclass(frozen=True)
class AnswerScorer:
    """Everything that scores.

    models     axis ("helpful", "safety") → folder of the reward model; one of them, both or none
    rewards    name of a function in ft.rewards → its weight
    threshold  σ(safety) below which an answer counts as unsafe
    folder     where scores are kept, so that what a kill leaves is not computed again
    name       the stage's, for the progress bar
    """

    models: Mapping[str, Path]
    rewards: Mapping[str, float]
    threshold: float
    quantization: Mapping[str, Any] | None = None
    batch_size: int = 64
    folder: Path = field(default_factory=Path)
    name: str = ""

    @property
    def scores_anything(self) -> bool:
        return bool(self.models or self.rewards)

    def check(self, columns: Mapping[str, Any]) -> None:
        """Raises BadRow where a prompt's row lacks what a function reads."""
        check_columns(self.rewards, columns)

    def scores(self, samples: Sequence[Sample], file: str) -> Sequence[AnswerScore]:
        """Score of each answer, in order, of which numbers alone are held. `file` names the files they are kept in."""
        by_model = {axis: self._by_model(axis, samples, self.folder / f"{file}-{axis}.jsonl") for axis in self.models}
        names = list(dict.fromkeys((*self.models, *self.rewards)))
        numbers: dict[str, array[float]] = {name: array("d") for name in ("", *names)}  # "": what counts
        for first in range(0, len(samples), SCORED_AT_ONCE):
            for score in self._scores_of(samples[first : first + SCORED_AT_ONCE], by_model):
                numbers[""].append(score.reward)
                for name in names:
                    value = score.parts[name]
                    numbers[name].append(math.nan if value is None else value)

        def score_at(place: int) -> AnswerScore:
            parts = {name: numbers[name][place] for name in names}
            unread = {axis: None for axis in self.models if math.isnan(parts[axis])}
            return AnswerScore(numbers[""][place], {**parts, **unread})

        return LazySequence(len(samples), score_at)

    def _scores_of(
        self, samples: Sequence[Sample], by_model: Mapping[str, Mapping[str, Entry]]
    ) -> Iterator[AnswerScore]:
        for sample, values in zip(samples, self._function_values(samples), strict=True):
            raw = {axis: entries[sample.key]["score"] for axis, entries in by_model.items()}
            reward = reward_model_share(raw, is_for_safety(sample.prompt.columns), self.threshold)
            yield AnswerScore(reward + weighted_sum(values, self.rewards), {**raw, **values})

    def _by_model(self, axis: str, samples: Sequence[Sample], file: Path) -> Mapping[str, Entry]:
        """Raw scores of one reward model, which is loaded only where some are missing; None where it cannot read."""
        batch_size = self.batch_size

        def work(scorer: Scorer, batch: Sequence[Sample], tick: Tick) -> Iterator[tuple[str, Entry]]:
            rows = scorer.rendered([sample.conversation for sample in batch])
            readable = [row for row in rows if not isinstance(row, BadRow)]
            scores = iter(scorer.of_ids(readable, batch_size))
            for sample, row in zip(batch, rows, strict=True):
                yield sample.key, {"score": None if isinstance(row, BadRow) else next(scores)}
            tick(len(batch), 0)

        scorer = Loader(Scorer, self.models[axis], self.quantization)
        entries = compute_entries(samples, scorer, work, file, batch_size, f"{self.name}: {axis} scores")
        scorer.unload()
        return entries

    def _function_values(self, samples: Sequence[Sample]) -> list[dict[str, float]]:
        prompts = [list(sample.prompt.messages) for sample in samples]
        completions = [sample.conversation[-1:] for sample in samples]
        return function_values(self.rewards, prompts, completions, [sample.prompt.columns for sample in samples])
