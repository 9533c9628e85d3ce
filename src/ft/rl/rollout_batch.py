"""Answers of one batch, over all processes: what was said, what everyone thinks of it, and how it is dealt out.

Every process holds the whole batch. So whitening is over the batch whatever the number of processes, and a mini-batch
is the same answers however many processes and accumulation steps share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ft.rl.actors import Batch, right_padded


@dataclass
class Rollouts:
    """R prompts with their answers, padded on the right; C is the longest answer.

    ids                (R, L) prompt and answer
    prompts, answers   (R,) tokens of each; an answer's end token counts
    ended              (R,) the answer ended by itself
    drawn              (R, C) log-probability of each token when it was drawn
    logps, reference   (R, C) of the policy as it sampled and of the reference, from a forward pass
    values             (R, C) the critic's, before each token
    advantages, returns  (R, C)
    """

    ids: Tensor
    prompts: Tensor
    answers: Tensor
    ended: Tensor
    drawn: Tensor
    logps: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    @staticmethod
    def of(
        prompts: Sequence[list[int]],
        answers: Sequence[list[int]],
        nats: Sequence[list[float]],
        stop_ids: Sequence[int],
        device: Any,
    ) -> Rollouts:
        """Answers that nobody has looked at yet."""
        ids, _ = right_padded([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)], device)
        drawn, _ = right_padded(nats, device)
        return Rollouts(
            ids=ids,
            prompts=torch.tensor([len(prompt) for prompt in prompts], device=device),
            answers=torch.tensor([len(answer) for answer in answers], device=device),
            ended=torch.tensor([answer[-1] in stop_ids for answer in answers], device=device),
            drawn=drawn,
            **{name: torch.zeros_like(drawn) for name in ("logps", "reference", "values", "advantages", "returns")},
        )

    @property
    def mask(self) -> Tensor:
        """(R, C), True on tokens of answers."""
        return torch.arange(self.logps.shape[1], device=self.answers.device) < self.answers[:, None]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> Batch:
        return Batch.of(self.ids[rows], self.prompts[rows], self.answers[rows])

    def pick(self, name: str, rows: Tensor, batch: Batch) -> Tensor:
        """A field of these rows as wide as their batch, (B, C)."""
        values: Tensor = getattr(self, name)[rows][:, : batch.answer.shape[1]]
        return values

    def fill(self, name: str, read: Callable[[Batch], Tensor], batch_size: int) -> None:
        """Set a field to what `read` gives each answer token, (N,). Rows of about one length are read side by side, as
        many as take no more room than `batch_size` of the longest."""
        lengths, order = (self.prompts + self.answers).sort()
        for rows in order.split(side_by_side(lengths.tolist(), batch_size)):
            batch = self.batch(rows)
            getattr(self, name)[rows, : batch.answer.shape[1]] = batch.filled(read(batch).float())

    def everyones(self, accelerator: Any) -> Rollouts:
        """The rollouts of all processes, one after the other; each holds as many."""
        if accelerator.num_processes == 1:
            return self
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        wide = {
            name: accelerator.pad_across_processes(value, dim=1) for name, value in found.items() if value.ndim == 2
        }
        return Rollouts(**{name: everyones(value, accelerator) for name, value in {**found, **wide}.items()})

    def first(self, count: int) -> Rollouts:
        return Rollouts(**{one.name: getattr(self, one.name)[:count] for one in fields(self)})

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        save_file({one.name: getattr(self, one.name).cpu().contiguous() for one in fields(self)}, str(file))

    @staticmethod
    def load(file: Path, device: Any) -> Rollouts:
        from safetensors.torch import load_file

        return Rollouts(**load_file(str(file), device=str(device)))


def side_by_side(lengths: Sequence[int], batch_size: int) -> list[int]:
    """How many of the rows at a time, from the shortest to the longest: padded they take no more room than `batch_size`
    of the longest."""
    counts, room = [0], batch_size * lengths[-1]
    for length in lengths:
        if (counts[-1] + 1) * length > room:
            counts.append(0)
        counts[-1] += 1
    return counts


@dataclass(frozen=True)
class Deal:
    """How a batch of `size` answers is dealt out: each pass in a new order, by seed and number, and each mini-batch cut
    into as many parts as there are accumulation steps and processes, rows of about one length together."""

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


class Prompts(torch.utils.data.Sampler[int]):
    """Numbers of prompts: batch after batch, each prompt `copies` times, each batch `repeats` times, as TRL's trainers
    take them. The order is that of the seed and the epoch, so that a resumed run goes on in it."""

    def __init__(self, count: int, batch: int, copies: int, repeats: int, shuffle: bool, seed: int):
        self.count, self.batch, self.copies, self.repeats = count, batch, copies, repeats
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch * self.batch * self.copies * self.repeats

    def __iter__(self) -> Any:
        order = list(range(self.count))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
        for first in range(0, self.count - self.batch + 1, self.batch):
            for _ in range(self.repeats):
                for number in order[first : first + self.batch]:
                    yield from [number] * self.copies


def everyones(values: Tensor, accelerator: Any) -> Tensor:
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


def scores_of(found: Mapping[str, Sequence[float | None]], names: Sequence[str], device: Any) -> Tensor:
    """Raw scores as a table (R, M), NaN where there is none."""
    rows = zip(*(found[name] for name in names), strict=True)
    table = [[float("nan") if score is None else score for score in row] for row in rows]
    return torch.tensor(table, device=device, dtype=torch.float32)
