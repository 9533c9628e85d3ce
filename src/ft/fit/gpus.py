"""GPUs by name, and what they can hold. To add one: a line in GPUS."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ft.errors import fail

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """`gib` is what a driver reports to programs, below what the box says where error correction takes a part.

    `bfloat16` is whether it computes in bfloat16 (Ampere and later).
    """

    name: str
    gib: float
    bfloat16: bool = True

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
    "h100": Gpu("H100", 79.1),
    "h200": Gpu("H200", 139.7),
    "b200": Gpu("B200", 178.0),
}


def gpu(written: str) -> Gpu:
    """The GPU called `written` (4090, a10g, …), or one of that many GiB. Raises UserError."""
    name = written.lower().removeprefix("rtx").strip(" -_")
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
    raise fail("--gpu", f"no GPU '{written}'", f"{hint}There are: {', '.join(GPUS)}; or say its memory in GiB.")
