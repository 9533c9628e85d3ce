"""Rows an optimizer step sees, over all processes: `global_batch` of a stage.

It stands beside `train:`, because no Trainer's configuration has such a field: theirs is the accumulation of one
process, which follows from it.
"""

from __future__ import annotations

import math

A_DEVICE, ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"


def accumulation(global_batch: int, per_device: int, processes: int) -> int:
    """Batches a process adds up before each step, so that a step sees `global_batch` rows.

    Raises ValueError with numbers that would work, where these do not divide.
    """
    if global_batch % (per_device * processes):
        raise ValueError(not_divisible(global_batch, per_device, processes))
    return global_batch // (per_device * processes)


def not_divisible(global_batch: int, per_device: int, processes: int) -> str:
    at_once = per_device * processes
    below = global_batch - global_batch % at_once
    fits = [f"global_batch {' or '.join(str(n) for n in (below, below + at_once) if n)}"]
    if global_batch % processes == 0:
        fits.append(f"{A_DEVICE} {_divisors_near(per_device, global_batch // processes)}")
    if global_batch % per_device == 0:
        fits.append(f"{_divisors_near(processes, global_batch // per_device)} processes")
    product = f"{A_DEVICE} {per_device}" + (f" x {processes} processes" if processes > 1 else "")
    return f"global_batch {global_batch} is no multiple of {product}. What fits: {'; or '.join(fits)}."


def _divisors_near(number: int, of: int) -> str:
    """The divisor below `number` and the one above it: '2 or 4'."""
    divisors = [d for d in range(1, of + 1) if of % d == 0]
    return " or ".join(
        str(d) for d in [d for d in divisors if d < number][-1:] + [d for d in divisors if d > number][:1]
    )


def steps(rows: int, epochs: float, batch: int) -> int:
    """Optimizer steps of a run; the last one of an epoch sees the rows that are left."""
    return math.ceil(math.ceil(rows / batch) * epochs)
