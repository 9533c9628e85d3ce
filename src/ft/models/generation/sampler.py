"""K answers to each prompt, sampled by a worker and written to a file as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ft.data.prompts import Prompt, Sample
from ft.lazy_sequence import LazySequence
from ft.models.generation.backends import WorkerRequest, WorkerSpec, answer_requests, load_worker
from ft.models.generation.executor import Entry, Loader
from ft.models.generation.resumable import compute_entries
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
        prompt_ids: Mapping[str, Sequence[int]],
        origin: Mapping[str, str | int],
        sampling: Sampling,
        samples: int,
    ):
        self.name, self.spec, self.prompt_ids, self.origin = name, spec, prompt_ids, origin
        self.sampling, self.samples = sampling, samples
        self.worker = Loader(load_worker, spec)

    def answers(self, prompts: Sequence[Prompt], temperature: float, file: Path) -> Sequence[SampledAnswer]:
        """K answers to each prompt, in order, read from the file when they are asked for: they may be millions.

        Prompts of about one length are answered side by side.
        """
        sampling = replace(self.sampling, temperature=temperature)
        name = f"{self.name}: answers at temperature {temperature:g}" if self.samples > 1 else f"{self.name}: answers"
        longest_first = sorted(prompts, key=lambda one: (-len(self.prompt_ids[one.key]), one.key))

        def request(place: int) -> WorkerRequest:
            prompt, k = longest_first[place // self.samples], place % self.samples
            return WorkerRequest(sample_key(prompt, k), prompt.messages, list(self.prompt_ids[prompt.key]))

        asked, work = LazySequence(len(prompts) * self.samples, request), partial(answer_requests, sampling=sampling)
        batch_size = self.spec.requests_per_batch
        entries = compute_entries(asked, self.worker, work, file, batch_size, name, accepts_failures=True)

        origin = {**self.origin, "k": 0, **sampling.record()}
        del origin["max_new_tokens"]

        def answer(place: int) -> SampledAnswer:
            prompt, k = prompts[place // self.samples], place % self.samples
            return _answer(prompt, {**origin, "k": k}, entries[sample_key(prompt, k)])

        return LazySequence(len(asked), answer)

    def unload(self) -> None:
        """Let the policy go: a reward model needs the memory next."""
        self.worker.unload()


def sample_key(prompt: Prompt, k: int) -> str:
    """Of the k-th answer to a prompt."""
    return f"{prompt.key}/{k}"


def _answer(prompt: Prompt, origin: Mapping[str, Any], entry: Entry) -> SampledAnswer:
    sample = Sample(prompt, entry.get("text") or "", origin)
    if failed := str(entry.get("failed", "")):
        return SampledAnswer(sample, 0, ended=False, fits=True, failed=failed)
    return SampledAnswer(sample, entry["tokens"], entry["ended"], entry["text"] is not None)
