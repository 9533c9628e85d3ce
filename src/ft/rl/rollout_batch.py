"""Answers of one batch, over all processes: their tokens, what every role makes of them, and the order of learning.

Every process holds the whole batch. So whitening is over the batch whatever the number of processes, and a mini-batch
is the same answers however many processes and accumulation steps share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ft.models.batching import pad
from ft.rl.actors import CompletionBatch

# Field names of rollouts.safetensors in checkpoints that were written before the fields had their present names.
_EARLIER_NAMES = {
    "ids": "input_ids",
    "prompts": "prompt_lengths",
    "answers": "completion_lengths",
    "ended": "has_eos",
    "drawn": "sampling_logprobs",
    "logps": "logprobs",
    "reference": "ref_logprobs",
}


@dataclass
class Rollouts:
    """R prompts with their completions, padded on the right; C is the longest completion. All log-probabilities are in
    nats, at the temperature of sampling.

    input_ids           (R, L) prompt and completion
    prompt_lengths, completion_lengths  (R,) tokens of each; a completion's end token counts
    has_eos             (R,) the completion ends in an end token, and was not cut
    sampling_logprobs   (R, C) of each token when it was drawn
    logprobs, ref_logprobs  (R, C) of the policy as it sampled and of the reference, from a forward pass
    values              (R, C) the critic's, before each token
    advantages, returns (R, C)
    """

    input_ids: Tensor
    prompt_lengths: Tensor
    completion_lengths: Tensor
    has_eos: Tensor
    sampling_logprobs: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @staticmethod
    def from_completions(
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        sampling_logprobs: Sequence[list[float]],
        stop_ids: Sequence[int],
        device: torch.device | str,
    ) -> Rollouts:
        """Completions that no role has read yet: what a forward pass gives is 0."""
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        padded, _ = pad(sampling_logprobs, "right", device)
        unread = ("logprobs", "ref_logprobs", "values", "advantages", "returns")
        return Rollouts(
            input_ids=pad(rows, "right", device)[0],
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], device=device),
            completion_lengths=torch.tensor([len(completion) for completion in completions], device=device),
            has_eos=torch.tensor([completion[-1] in stop_ids for completion in completions], device=device),
            sampling_logprobs=padded,
            **{name: torch.zeros_like(padded) for name in unread},
        )

    @property
    def mask(self) -> Tensor:
        """(R, C), True on tokens of completions, the end token among them: by position, so that a pad token which is
        also the end token hides nothing."""
        columns = torch.arange(self.logprobs.shape[1], device=self.completion_lengths.device)
        return columns < self.completion_lengths[:, None]

    def kl(self) -> Tensor:
        """log(policy / reference) summed over each completion, (R,): an unbiased estimate of the KL divergence."""
        return ((self.logprobs - self.ref_logprobs) * self.mask).sum(1)

    def __len__(self) -> int:
        return len(self.input_ids)

    def batch(self, rows: Tensor) -> CompletionBatch:
        return CompletionBatch.from_rows(self.input_ids[rows], self.prompt_lengths[rows], self.completion_lengths[rows])

    def pick(self, name: str, rows: Tensor, batch: CompletionBatch) -> Tensor:
        """A field of these rows as wide as their batch, (B, C)."""
        values: Tensor = getattr(self, name)[rows][:, : batch.completion_mask.shape[1]]
        return values

    def fill(self, name: str, read: Callable[[CompletionBatch], Tensor], batch_size: int) -> None:
        """Set a field to what `read` gives each completion token, (N,). Rows of about one length are read side by
        side, as many as take no more room than `batch_size` of the longest."""
        lengths, order = (self.prompt_lengths + self.completion_lengths).sort()
        for rows in order.split(rows_per_pass(lengths.tolist(), batch_size)):
            batch = self.batch(rows)
            getattr(self, name)[rows, : batch.completion_mask.shape[1]] = batch.scatter(read(batch).float())

    def gather(self, accelerator: Accelerator) -> Rollouts:
        """The rollouts of all processes, one after the other; each holds as many."""
        if accelerator.num_processes == 1:
            return self
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, values in columns.items():
            as_wide = accelerator.pad_across_processes(values, dim=1) if values.ndim == 2 else values
            columns[name] = gather_rows(as_wide, accelerator)
        return Rollouts(**columns)

    def first(self, count: int) -> Rollouts:
        return Rollouts(**{field.name: getattr(self, field.name)[:count] for field in fields(self)})

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        save_file({field.name: getattr(self, field.name).cpu().contiguous() for field in fields(self)}, str(file))

    @staticmethod
    def load(file: Path, device: torch.device | str) -> Rollouts:
        from safetensors.torch import load_file

        columns = load_file(str(file), device=str(device))
        return Rollouts(**{_EARLIER_NAMES.get(name, name): values for name, values in columns.items()})


def rows_per_pass(lengths: Sequence[int], batch_size: int) -> list[int]:
    """How many rows go into each pass, from the shortest to the longest: padded they take no more room than
    `batch_size` of the longest."""
    counts, room = [0], batch_size * lengths[-1]
    for length in lengths:
        if (counts[-1] + 1) * length > room:
            counts.append(0)
        counts[-1] += 1
    return counts


@dataclass(frozen=True)
class MinibatchOrder:
    """Which of a batch of `size` answers are learnt from when: each pass has a new order, by seed and number, and each
    mini-batch is cut into as many parts as there are accumulation steps and processes, rows of about one length
    together."""

    size: int
    minibatch: int
    accumulation: int
    processes: int
    process: int
    seed: int

    @property
    def steps(self) -> int:
        """Micro-batches of a pass."""
        return self.size // self.minibatch * self.accumulation

    def minibatch_rows(self, number: int, step: int) -> Tensor:
        """Rows of the mini-batch at micro-step `step`, counted over all passes, of batch `number`."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * number + step // self.steps)
        order = torch.randperm(self.size, generator=generator)
        first = step % self.steps // self.accumulation * self.minibatch
        return order[first : first + self.minibatch]

    def rows(self, number: int, step: int, lengths: Tensor) -> Tensor:
        """This process's share of it at this micro-step, as row numbers on the device of `lengths` (R,)."""
        rows = self.minibatch_rows(number, step).to(lengths.device)  # drawn on the CPU: the same order on every device
        rows = rows[lengths[rows].argsort(stable=True)]
        parts = rows.chunk(self.accumulation)
        return parts[step % self.accumulation].chunk(self.processes)[self.process]


class PromptSampler(torch.utils.data.Sampler[int]):
    """Which prompt is answered when: batch after batch, each prompt `copies` times, each batch `repeats` times, as
    TRL's trainers take them. The order is that of the seed and the epoch, so that a resumed run goes on in it."""

    def __init__(self, count: int, batch: int, copies: int, repeats: int, shuffle: bool, seed: int):
        self.count, self.batch, self.copies, self.repeats = count, batch, copies, repeats
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch * self.batch * self.copies * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.count))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
        for first in range(0, self.count - self.batch + 1, self.batch):
            for _ in range(self.repeats):
                for number in order[first : first + self.batch]:
                    yield from [number] * self.copies


def gather_rows(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The rows of all processes, one after the other; each holds as many."""
    if accelerator.num_processes == 1:
        return values
    if not values.numel():
        return values.new_zeros(len(values) * accelerator.num_processes, *values.shape[1:])
    gathered: Tensor = accelerator.gather(values.int() if values.dtype == torch.bool else values)
    return gathered.to(values.dtype)


def scores_by_name(table: Tensor, names: Sequence[str]) -> list[dict[str, float | None]]:
    """The rows of a table (R, M) by name, None where it has NaN."""
    rows = [dict(zip(names, row, strict=True)) for row in table.tolist()]
    return [{name: None if isnan(score) else score for name, score in row.items()} for row in rows]


def score_table(
    by_model: Mapping[str, Sequence[float | None]], names: Sequence[str], count: int, device: torch.device | str
) -> Tensor:
    """Raw scores of `count` answers as a table (R, M), NaN where there is none."""
    columns = [[float("nan") if score is None else score for score in by_model[name]] for name in names]
    return torch.tensor(columns, device=device, dtype=torch.float32).reshape(len(names), count).T.contiguous()
