"""Moments of a stage and what stands in a GPU's memory then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ft.fit.gpus import GIB, Gpu

PARTS = ("weights", "adapters", "gradients", "optimiser", "activations", "logits", "cache", "overhead")

CONTEXT = GIB // 2  # CUDA's own memory, and cuBLAS's workspaces
LOOSE = 0.03  # of what comes and goes: blocks the allocator holds and cannot hand out whole


@dataclass(frozen=True)
class Moment:
    """Bytes by part at one moment, for one GPU. `tensors` is what torch.cuda.max_memory_allocated would say.

    `workspace` is the share of `overhead` that torch's allocator hands to cuBLAS, and counts like tensors.
    """

    name: str
    parts: Mapping[str, int]
    workspace: int = 0

    @property
    def tensors(self) -> int:
        return self.workspace + sum(size for part, size in self.parts.items() if part != "overhead")

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def moment(name: str, **parts: float) -> Moment:
    """The moment with its overhead: the context, and a share of what comes and goes."""
    loose = sum(parts.get(part, 0) for part in ("activations", "logits", "cache"))
    sizes = {part: int(parts.get(part, 0)) for part in PARTS[:-1]}
    return Moment(name, {**sizes, "overhead": CONTEXT + int(LOOSE * loose)})


@dataclass(frozen=True)
class StageFit:
    """What a stage needs. `problem` says why it cannot be told; then there are no moments.

    shape    where the model's shape comes from
    notes    what was assumed, or cannot work on this GPU
    """

    stage: str
    kind: str
    trained: int = 0
    parameters: int = 0
    moments: tuple[Moment, ...] = ()
    shape: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda one: one.total)

    def fits(self, gpu: Gpu) -> bool:
        return not self.moments or self.peak.total <= gpu.capacity
