"""The reference of a whole policy elsewhere: while the policy trains on a batch, actors score the next.

The trainer's collator hands each batch on as soon as it is collated, which accelerate's loader does one batch ahead of
the training step. In place of the reference model the trainer has a module that waits for what the actors have found.
They compute with the same code on the same padded batch, so the losses are those of a reference beside the policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ft.encode.loss_mask import IGNORE_INDEX
from ft.models.device import compute_dtype
from ft.models.generation.executor import Entry, Loader, Tick, executor
from ft.models.load import start
from ft.recipe import ModelSource
from ft.recipe.job import Job
from ft.training.dpo.shared_prefix import share_logps
from ft.training.trl_compat import add_fused_lm_head

TENSORS = ("input_ids", "attention_mask", "labels")


@dataclass(frozen=True)
class ReferenceBatch:
    """What a forward of the reference is given: tensors of TENSORS on the CPU, (2P, T), and switches."""

    tensors: Mapping[str, Tensor]
    switches: Mapping[str, bool]

    @property
    def key(self) -> str:
        ids = b"".join(self.tensors[name].numpy().tobytes() for name in ("input_ids", "labels"))
        return hashlib.sha256(ids).hexdigest()


class OverlappedReference(torch.nn.Module):
    """Stands where the trainer has its reference model, and holds no weights."""

    def __init__(self, job: Job, config: Any, shares: bool):
        super().__init__()
        autocast = "bfloat16" if config.bf16 else "float16" if config.fp16 else None
        arguments = (job.model, job.init, compute_dtype(config), config.use_cpu, autocast)
        self.stream = executor().stream(Loader(_load, *arguments), _log_probs)
        self.shares = shares

    def look_ahead(self, batch: Mapping[str, Any]) -> None:
        """Let the batch be scored; nobody waits."""
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE_INDEX)
        switches = {"use_cache": False, "fused_lm_head": True, **({"pairs": True} if self.shares else {})}
        tensors = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
        self.stream.submit(ReferenceBatch(tensors, switches))

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """`log_probs` of each token's successor, (2P, T - 1), in nats, as TRL's fused head gives them."""
        tensors = {name: inputs.pop(name) for name in TENSORS}
        device = tensors["input_ids"].device
        batch = ReferenceBatch({name: tensor.cpu() for name, tensor in tensors.items()}, inputs)
        return SimpleNamespace(log_probs=self.stream.result(batch)["log_probs"].to(device))


@dataclass(frozen=True)
class LookAhead:
    """A collator that hands its batches to the reference as well."""

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    reference: OverlappedReference

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        self.reference.look_ahead(batch)
        return batch


@dataclass(frozen=True)
class _Reference:
    """In an actor: the model, and the dtype it is in autocast with; None: none."""

    model: Any
    autocast: torch.dtype | None


def _load(model: ModelSource | None, init: Path | None, dtype: str, use_cpu: bool, autocast: str | None) -> _Reference:
    """As TRL's trainer and ours prepare a reference that stands beside the policy."""
    reference = start(model, init, None, None, dtype, use_cpu).eval()
    add_fused_lm_head(reference)
    share_logps(reference)
    if torch.cuda.is_available() and not use_cpu:
        reference.to("cuda")
    return _Reference(reference, getattr(torch, autocast) if autocast else None)


def _log_probs(reference: _Reference, batch: Sequence[ReferenceBatch], tick: Tick) -> Iterator[tuple[str, Entry]]:
    device = reference.model.device
    for one in batch:
        tensors = {name: tensor.to(device) for name, tensor in one.tensors.items()}
        enabled = reference.autocast is not None
        with torch.no_grad(), torch.autocast(device.type, reference.autocast, enabled=enabled):
            log_probs = reference.model(**tensors, **one.switches).log_probs
        yield one.key, {"log_probs": log_probs.float().cpu()}
