"""Held-out numbers of a trainer: means over trained tokens or pairs, whatever the batch size, packing and processes.

The Trainer takes the mean of batch means. There a row counts more in a small batch, a token more in a short row, and
the rows that fill up the last batch of several processes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ft.encode.loss_mask import IGNORE_INDEX
from ft.families import CAUSAL, Family, family_of
from ft.training.stage_trainer import StageTrainer
from ft.training.trl_compat import PairTrainer, held_metrics, held_out_loader

EXTREMES: Mapping[str, Callable[[Sequence[float]], float]] = {"min_reward": min, "max_reward": max}


BY_BATCH = {"sft", "aot", "aot_unpaired"}  # losses that see a batch as a whole: held-out pairs then come one by one


@dataclass(frozen=True)
class BatchSize:
    """Over how many things the means of one batch were taken. Of conversations all tokens are chosen ones."""

    loss: int
    rows: int
    tokens: int = 0
    chosen_tokens: int = 0
    rejected_tokens: int = 0
    chosen_rows: int = 0
    rejected_rows: int = 0


FIELDS = [field.name for field in fields(BatchSize)]
OVER = {  # the metrics of TRL's trainers that are means over something else than rows
    **{f"{name}/{side}": f"{side}_rows" for name in ("rewards", "logps") for side in ("chosen", "rejected")},
    "entropy": "tokens",
    "mean_token_accuracy": "chosen_tokens",
    "logits/chosen": "chosen_tokens",
    "logits/rejected": "rejected_tokens",
}


def batch_size(inputs: Mapping[str, Any], family: Family = CAUSAL) -> BatchSize:
    """Of a batch as a trainer gives it to the model: rows with labels, pairs, or sampled answers."""
    if "labels" in inputs:
        tokens = int((family.predicted_labels(inputs) != IGNORE_INDEX).sum())
        return BatchSize(tokens, len(inputs["labels"]), tokens, tokens)
    if "pixel_values" in inputs:  # pictures and what is said of them
        return BatchSize(*[len(inputs["pixel_values"])] * 2)
    if "completion_ids" in inputs:
        return BatchSize(*[len(inputs["completion_ids"])] * 2)
    if "label" in inputs:
        chosen_mask, rejected_mask = (inputs["completion_mask"][inputs["label"] == label] for label in (True, False))
        return _of_sides(len(inputs["label"]), chosen_mask, rejected_mask)
    pairs = len(inputs["input_ids"]) // 2
    if "completion_mask" in inputs:
        return _of_sides(pairs, *inputs["completion_mask"].chunk(2))
    return BatchSize(pairs, pairs, chosen_rows=pairs, rejected_rows=pairs)


def _of_sides(rows: int, chosen_mask: Tensor, rejected_mask: Tensor) -> BatchSize:
    """By the masks of answers, (C, L) and (R, L)."""
    chosen, rejected = (int(mask[:, 1:].sum()) for mask in (chosen_mask, rejected_mask))
    return BatchSize(rows, rows, chosen + rejected, chosen, rejected, len(chosen_mask), len(rejected_mask))


class HeldOutBatches(Sampler[list[int]]):
    """Places of rows, batch by batch, for one process. Each process has other rows, as long as there is a full batch
    for every one; those left over are computed by all of them, and count once.

    full  batches that are the process's own
    """

    def __init__(self, rows: int, size: int, process: int, processes: int):
        self.rows, self.size, self.process, self.processes = rows, size, process, processes
        self.full = rows // (size * processes)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.full):
            first = (number * self.processes + self.process) * self.size
            yield list(range(first, first + self.size))
        for first in range(self.full * self.processes * self.size, self.rows, self.size):
            yield list(range(first, min(first + self.size, self.rows)))

    def __len__(self) -> int:
        rest = self.rows - self.full * self.processes * self.size
        return self.full + -(-rest // self.size)


def measure_over_rows(trainer: StageTrainer, has_prepared_rows: bool) -> None:
    """Let the trainer's eval loss and metrics be means over tokens or rows. Trainers whose rows are not prepared
    make their own batches, of answers."""
    means = ExactMeans(trainer)
    trainer.compute_loss, trainer.log = means.compute_loss, means.log
    trainer.evaluation_loop = means.evaluation_loop
    if has_prepared_rows and trainer.eval_dataset is not None:
        by_batch = isinstance(trainer, PairTrainer) and not BY_BATCH.isdisjoint(trainer.loss_types)
        rows_at_once = 1 if by_batch else trainer.args.per_device_eval_batch_size
        accelerator = trainer.accelerator
        place = (accelerator.process_index, accelerator.num_processes)
        batches = means.batches = HeldOutBatches(len(trainer.eval_dataset), rows_at_once, *place)
        trainer.get_eval_dataloader = lambda rows=None: held_out_loader(trainer, batches)


class ExactMeans:
    """Remembers over what the means of each batch were taken, and makes one mean of them for each log."""

    def __init__(self, trainer: StageTrainer):
        self.trainer, self.accelerator = trainer, trainer.accelerator
        self.family = family_of(trainer.model.config, "model")
        self.loss_of, self.log_of, self.loop_of = trainer.compute_loss, trainer.log, trainer.evaluation_loop
        self.batches: HeldOutBatches | None = None  # None: the trainer makes its own
        # of the batches since the last log of their mode: a run may be evaluated between two logs of training
        self.sizes: dict[str, list[BatchSize]] = {"train": [], "eval": []}
        self.losses: list[float] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        is_training = self.trainer.model.training
        size = batch_size(inputs, self.family) if isinstance(inputs, Mapping) else None  # trainers take keys out
        result = self.loss_of(model, inputs, *args, **options)
        if size and not (is_training and "completion_ids" in inputs):  # sampled once, and learnt from several times
            self.sizes["train" if is_training else "eval"].append(size)
            loss = result[0] if isinstance(result, tuple) else result
            self.losses += [] if is_training else [float(loss.detach())]
        return result

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **options: Any) -> Any:
        """The loss is that of the rows: a router's, which depends on what stands in a batch, is no part of it."""
        has_router_loss = getattr(self.trainer, "aux_loss_enabled", False)  # RewardTrainer knows none
        self.trainer.aux_loss_enabled = False
        try:
            output = self.loop_of(*args, metric_key_prefix=metric_key_prefix, **options)
        finally:
            self.trainer.aux_loss_enabled = has_router_loss
        if self.losses:
            sizes = self.sizes_here("eval")[:, FIELDS.index("loss")]
            losses = torch.tensor(self.losses, dtype=torch.float64, device=sizes.device)
            output.metrics[f"{metric_key_prefix}_loss"] = float(self.add_up(losses @ sizes) / self.add_up(sizes.sum()))
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.trainer.model.training else "eval"
        if self.sizes[mode]:
            weights = dict(zip(FIELDS, self.add_up(self.sizes_here(mode)).T, strict=True))
            metrics = held_metrics(self.trainer, mode)
            for name, values in metrics.items():
                if len(values) == len(self.sizes[mode]):
                    metrics[name] = [_mean(name, values, weights[OVER.get(name, "rows")])]
            if "rewards/margins" in metrics:  # a batch may have answers of one side alone
                metrics["rewards/margins"] = [metrics["rewards/chosen"][0] - metrics["rewards/rejected"][0]]
        self.sizes[mode], self.losses = [], []
        self.log_of(logs, start_time)

    def sizes_here(self, mode: str) -> Tensor:
        """(N, 7) float64, of N batches: this process's part of what is counted."""
        rows = [astuple(size) for size in self.sizes[mode]]
        sizes = torch.tensor(rows, dtype=torch.float64, device=self.accelerator.device)
        if self.batches and mode == "eval":
            sizes[self.batches.full :] /= self.accelerator.num_processes  # which all of them compute
        return sizes

    def add_up(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        if self.accelerator.num_processes == 1:
            return values
        total: Tensor = self.accelerator.reduce(values, "sum")
        return total


def _mean(name: str, values: Sequence[float], weights: Tensor) -> float:
    """One number of those of several batches; 0 where they have nothing to be a mean over, as in TRL."""
    if name in EXTREMES:
        return EXTREMES[name](values)
    whole = float(weights.sum())
    return float(torch.tensor(values, dtype=torch.float64, device=weights.device) @ weights) / whole if whole else 0.0
