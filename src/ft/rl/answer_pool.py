"""The answers of a round, and of earlier ones, that compete to become rows.

There may be millions: they are read anew from their file whenever they are asked for, and only numbers are held.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ft.data.prompts import Prompt, Sample
from ft.lazy_sequence import LazySequence, joined
from ft.models.generation.sampler import SampledAnswer
from ft.rl.scoring import AnswerScore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DrawnAnswers:
    """A round's answers, `samples` to each of `prompts`, in order.

    usable  places of the answers that can become rows
    counts  what became of the answers; those of prompts too long for the model are none
    """

    def __init__(self, prompts: Sequence[Prompt], answers: Sequence[SampledAnswer], samples: int):
        self.prompts, self.answers, self.samples = prompts, answers, samples
        self.usable = array("q")
        self._fits: list[bool] = []  # of each prompt
        self.counts = dict.fromkeys(("answers", "tokens", "too_long", "unfinished", "empty"), 0)
        for place, answer in enumerate(answers):
            if place % samples == 0:
                self._fits.append(answer.fits)
            if answer.usable:
                self.usable.append(place)
            self._count(answer)

    def _count(self, answer: SampledAnswer) -> None:
        counts = self.counts
        if answer.failed:
            counts["failed"] = counts.get("failed", 0) + 1
        elif not answer.fits:
            counts["too_long"] += 1
        else:
            counts["answers"] += 1
            counts["tokens"] += answer.tokens
            counts["unfinished"] += not answer.ended
            counts["empty"] += answer.ended and not answer.usable

    @property
    def usable_samples(self) -> Sequence[Sample]:
        return LazySequence(len(self.usable), lambda number: self.answers[self.usable[number]].sample)

    def usable_of(self, prompt_place: int) -> range:
        """Numbers, among the usable answers, of those to one prompt."""
        ends = (prompt_place * self.samples, (prompt_place + 1) * self.samples)
        return range(*(bisect_left(self.usable, end) for end in ends))

    def table(self, values: Iterable[float], lowest: float) -> NDArray[np.float64]:
        """`values` of the usable answers as a row for each prompt, shape (prompts, samples). One that is cut or empty
        counts as the `lowest` of all: a curve over other prompts at every N would show which prompts were left, not
        what N answers are worth."""
        import numpy as np

        table = np.full(len(self.answers), lowest)
        table[np.frombuffer(self.usable, np.int64)] = np.fromiter(values, np.float64, len(self.usable))
        return table.reshape(-1, self.samples)[self._fits]


class AnswerPool:
    """What competes: the usable answers of this round, then those of `earlier` ones, which are held."""

    def __init__(self, drawn: DrawnAnswers, earlier: Sequence[Sample]):
        self.drawn, self.earlier = drawn, earlier
        self.samples = joined(drawn.usable_samples, earlier)

    def by_prompt(self, prompts: Sequence[Prompt], scores: Sequence[AnswerScore]) -> Iterator[list[Sample]]:
        """The answers that can be read, with their scores, of each of `prompts` and then of those that only earlier
        rounds have."""
        drawn_places = {prompt.key: place for place, prompt in enumerate(self.drawn.prompts)}
        earlier: dict[str, list[int]] = {}
        for number, sample in enumerate(self.earlier, len(self.drawn.usable)):
            earlier.setdefault(sample.prompt.key, []).append(number)
        for key in dict.fromkeys((*(prompt.key for prompt in prompts), *earlier)):
            drawn = self.drawn.usable_of(drawn_places[key]) if key in drawn_places else ()
            candidates = [(self.samples[number], scores[number]) for number in (*drawn, *earlier.get(key, ()))]
            readable = [_with_score(sample, score) for sample, score in candidates if score.is_readable]
            if readable:
                yield readable


def _with_score(sample: Sample, score: AnswerScore) -> Sample:
    return replace(sample, score=score.reward, parts=score.parts)
