"""K answers to each prompt, drawn by a backend and kept in a file as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ft.data.prompts import Prompt, Sample
from ft.models.generation.backends import Asked, Backend, BackendOptions, backend
from ft.models.generation.generate import Sampling
from ft.models.generation.resumable import Entry, Tick, kept
from ft.recipe.job import Job


@dataclass(frozen=True)
class Answer:
    """A sampled answer and how it came; `tokens` long, `ended` by the model itself; `fits` into its positions."""

    sample: Sample
    tokens: int
    ended: bool
    fits: bool

    @property
    def usable(self) -> bool:
        return self.ended and bool(self.sample.text)


@dataclass(frozen=True)
class _Wanted:
    prompt: Prompt
    k: int

    @property
    def key(self) -> str:
        return f"{self.prompt.key}/{self.k}"


class Sampler:
    """Draws with the policy, which is loaded only where an answer is missing.

    What is drawn is decided by the seed, the words of the prompt and k, so the same prompt has the same luck at every
    temperature, whatever other prompts there are.
    """

    def __init__(
        self,
        job: Job,
        asked: BackendOptions,
        ids: Mapping[str, list[int]],
        origin: Mapping[str, str | int],
        sampling: Sampling,
        samples: int,
        batch_size: int,
    ):
        self.job, self.asked, self.ids, self.origin = job, asked, ids, origin
        self.sampling, self.samples, self.batch_size = sampling, samples, batch_size
        self._loaded: Backend | None = None

    def answers(self, prompts: Sequence[Prompt], temperature: float, file: Path) -> list[Answer]:
        """K answers to each prompt, in order. Prompts of about one length are answered side by side."""
        sampling = replace(self.sampling, temperature=temperature)

        def work(batch: Sequence[_Wanted], tick: Tick) -> Iterator[tuple[str, Entry]]:
            questions = [Asked(one.key, one.prompt.messages, self.ids[one.prompt.key]) for one in batch]
            for key, reply in self._backend().answers(questions, sampling, tick):
                yield key, asdict(reply)

        wanted = [_Wanted(prompt, k) for prompt in prompts for k in range(self.samples)]
        ordered = sorted(wanted, key=lambda one: (-len(self.ids[one.prompt.key]), one.prompt.key, one.k))
        alone = self.asked.kind == "server"
        done = kept(ordered, work, file, None if alone else self.batch_size, f"{self.job.name}: answers")
        return [self._answer(one, done[one.key], sampling) for one in wanted]

    def _answer(self, one: _Wanted, entry: Entry, sampling: Sampling) -> Answer:
        drawn = {"k": one.k, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        sample = Sample(one.prompt, entry["text"] or "", {**self.origin, **drawn})
        return Answer(sample, entry["tokens"], entry["ended"], fits=entry["text"] is not None)

    def _backend(self) -> Backend:
        if self._loaded is None:
            job = self.job
            self._loaded = backend(self.asked, job.model, job.init, job.template, job.blocks.get("quantization"))
        return self._loaded

    def rest(self) -> None:
        """Let the policy go: a reward model needs the memory next."""
        self._loaded = None
