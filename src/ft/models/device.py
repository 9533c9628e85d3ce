"""What the machine at hand can do, asked in one place."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ft.errors import fail
from ft.imports import uncollected
from ft.recipe.precision import dtype_of_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments


def has_gpu() -> bool:
    with uncollected():
        import torch

    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type != "cpu"  # type: ignore[union-attr]


# mallopt's names for them (malloc.h of glibc)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Where tensors live in main memory, let the process keep what they give back, up to 256 MiB in a piece: each step
    would else ask the kernel for the same pages again, which takes a tenth of its time. glibc only; no effect elsewhere
    or with a GPU."""
    if has_gpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for what, size in ((M_MMAP_THRESHOLD, 256 << 20), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 64 << 20)):
        mallopt(what, size)


def cores() -> int:
    """How many of them this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def gpus() -> int:
    """How many of them this process may use."""
    import torch

    return torch.accelerator.device_count() if has_gpu() else 0


def device_arguments(train: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Trainer arguments the recipe leaves to the machine: on a CPU float32; on a GPU what the recipe or TRL says.

    Raises UserError when the recipe asks for half precision and there is no GPU: nothing is downgraded in silence.
    """
    if has_gpu() and not train.get("use_cpu"):
        return {}
    asked = [key for key in ("bf16", "fp16", "tf32") if train.get(key)]
    if asked:
        fix = f"Run it on a GPU, or try it here with `--set STAGE.train.{asked[0]}=false`."
        raise fail(where, f"the stage trains with {asked[0]}, and this machine has no GPU", fix)
    return {"use_cpu": True, "bf16": False}


def compute_dtype(config: TrainingArguments) -> str:
    """The dtype that arguments which are built compute in: what a frozen base is held in."""
    return dtype_of_arguments({"bf16": bool(config.bf16), "fp16": config.fp16})


def peak_memory() -> int:
    """Bytes that tensors took at most on this process's GPU; without one, what the process took of main memory."""
    import torch

    if has_gpu() and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe() -> str:
    """The device's name for a record: 'NVIDIA H100' or 'CPU, 4 threads'."""
    import torch

    if has_gpu() and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {torch.get_num_threads()} threads"
