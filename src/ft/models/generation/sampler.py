"""K answers to each prompt, sampled by a worker and written to a file as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ft.data.prompts import Prompt, Sample
from ft.models.generation.backends import Worker, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.resumable import Entry, Tick, compute_entries
from ft.models.generation.sampling import Sampling


@dataclass(frozen=True)
class SampledAnswer:
    """A sampled answer and how it came; `tokens` long, `ended` by the model itself; `fits` into its positions;
    `failed` says why a server gave none."""

    sample: Sample
    tokens: int
    ended: bool
    fits: bool
    failed: str = ""

    @property
    def usable(self) -> bool:
        return self.ended and bool(self.sample.text)


@dataclass(frozen=True)
class _Sample:
    """The k-th answer to a prompt, not made yet."""

    prompt: Prompt
    k: int

    @property
    def key(self) -> str:
        return f"{self.prompt.key}/{self.k}"


class Sampler:
    """Samples from a policy, which is loaded only where an answer is missing.

    An answer is decided by the seed, the words of the prompt and k, so the same prompt has the same random numbers at
    every temperature, whatever other prompts there are. `prompt_ids` holds each prompt's tokens by its key, `origin`
    what a sample says of where it is from.
    """

    def __init__(
        self,
        name: str,
        spec: WorkerSpec,
        prompt_ids: Mapping[str, list[int]],
        origin: Mapping[str, str | int],
        sampling: Sampling,
        samples: int,
    ):
        self.name, self.spec, self.prompt_ids, self.origin = name, spec, prompt_ids, origin
        self.sampling, self.samples = sampling, samples
        self._worker: Worker | None = None

    def answers(self, prompts: Sequence[Prompt], temperature: float, file: Path) -> list[SampledAnswer]:
        """K answers to each prompt, in order. Prompts of about one length are answered side by side."""
        sampling = replace(self.sampling, temperature=temperature)

        def work(batch: Sequence[_Sample], tick: Tick) -> Iterator[tuple[str, Entry]]:
            rows = ((one.key, one.prompt.messages, self.prompt_ids[one.prompt.key]) for one in batch)
            return answers_by_key(self._loaded_worker(), requests(rows), sampling, tick)

        name = f"{self.name}: answers at temperature {temperature:g}" if self.samples > 1 else f"{self.name}: answers"
        samples = [_Sample(prompt, k) for prompt in prompts for k in range(self.samples)]
        longest_first = sorted(samples, key=lambda one: (-len(self.prompt_ids[one.prompt.key]), one.prompt.key, one.k))
        entries = compute_entries(longest_first, work, file, self.spec.requests_per_batch, name)
        return [self._answer(one, entries[one.key], sampling) for one in samples]

    def _answer(self, one: _Sample, entry: Entry, sampling: Sampling) -> SampledAnswer:
        how = {"k": one.k} | {name: value for name, value in sampling.record().items() if name != "max_new_tokens"}
        sample = Sample(one.prompt, entry["text"] or "", {**self.origin, **how})
        failed = str(entry.get("failed", ""))
        fits = entry["text"] is not None or bool(failed)
        return SampledAnswer(sample, entry["tokens"], entry["ended"], fits, failed)

    def _loaded_worker(self) -> Worker:
        if self._worker is None:
            self._worker = load_worker(self.spec)
        return self._worker

    def unload(self) -> None:
        """Let the policy go: a reward model needs the memory next."""
        self._worker = None
