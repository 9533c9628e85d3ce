"""GPUs by name, and what they can hold. To add one: a line in GPUS."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ft.errors import fail

GIB = 2**30
SMALL_WORKSPACE, LARGE_WORKSPACE = 8_320 * 2**10, 32 * 2**20
LARGE_SINCE = (9, 10)
"""Compute capabilities, their first numbers, with the large one: Hopper, and Blackwell for data centres."""


@dataclass(frozen=True)
class Gpu:
    """`gib` is what a driver reports to programs, below what the box says where error correction takes a part.

    `bfloat16` is whether it computes in bfloat16 (Ampere and later); `workspace` the bytes torch gives cuBLAS for each
    thread that multiplies matrices (aten/src/ATen/cuda/CublasHandlePool.cpp).
    """

    name: str
    gib: float
    bfloat16: bool = True
    workspace: int = SMALL_WORKSPACE

    @property
    def capacity(self) -> int:
        return int(self.gib * GIB)


GPUS = {
    "3060": Gpu("RTX 3060", 12),
    "3090": Gpu("RTX 3090", 24),
    "4060": Gpu("RTX 4060", 8),
    "4080": Gpu("RTX 4080", 16),
    "4090": Gpu("RTX 4090", 24),
    "5090": Gpu("RTX 5090", 32),
    "t4": Gpu("Tesla T4", 14.6, bfloat16=False),
    "v100": Gpu("V100", 15.8, bfloat16=False),
    "v100-32": Gpu("V100", 31.7, bfloat16=False),
    "a10g": Gpu("A10G", 22.0),
    "l4": Gpu("L4", 22.0),
    "a6000": Gpu("RTX A6000", 47.4),
    "l40s": Gpu("L40S", 44.4),
    "a100": Gpu("A100", 79.1),
    "a100-80": Gpu("A100", 79.1),
    "a100-40": Gpu("A100", 39.4),
    "h100": Gpu("H100", 79.1, workspace=LARGE_WORKSPACE),
    "h200": Gpu("H200", 139.7, workspace=LARGE_WORKSPACE),
    "b200": Gpu("B200", 178.0, workspace=LARGE_WORKSPACE),
}


def gpu_here() -> Gpu:
    """The CUDA device of this process."""
    import torch

    device = torch.cuda.get_device_properties(0)
    workspace = LARGE_WORKSPACE if device.major in LARGE_SINCE else SMALL_WORKSPACE
    return Gpu(device.name, device.total_memory / GIB, device.major >= 8, workspace)


def gpu(text: str) -> Gpu:
    """The GPU called `text` (4090, a10g, …), or one of that many GiB. Raises UserError."""
    name = text.lower().removeprefix("rtx").strip(" -_")
    try:
        gib = float(name.removesuffix("gib").removesuffix("gb"))
    except ValueError:
        gib = 0.0
    if name in GPUS:
        return GPUS[name]
    if 0 < gib <= 1024:
        return Gpu(f"{gib:g} GiB", gib)
    near = difflib.get_close_matches(name, GPUS, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    raise fail("--gpu", f"no GPU '{text}'", f"{hint}There are: {', '.join(GPUS)}; or say its memory in GiB.")
