"""Rows an optimizer step sees, over all processes: `global_batch` of a stage.

It stands beside `train:`, because no Trainer's configuration has such a field: theirs is the accumulation of one
process, which follows from it.
"""

from __future__ import annotations

import math
from typing import Any

from ft.errors import Problems
from ft.recipe.check import current_names
from ft.recipe.yaml import Block

A_DEVICE, ACCUMULATED = "per_device_train_batch_size", "gradient_accumulation_steps"


def accumulation(global_batch: int, per_device: int, processes: int) -> int:
    """Batches a process adds up before each step, so that a step sees `global_batch` rows.

    Raises ValueError with numbers that would work, where these do not divide.
    """
    if global_batch % (per_device * processes):
        raise ValueError(_not_divisible(global_batch, per_device, processes))
    return global_batch // (per_device * processes)


def _not_divisible(global_batch: int, per_device: int, processes: int) -> str:
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
    found = [d for d in range(1, of + 1) if of % d == 0]
    return " or ".join(str(d) for d in [d for d in found if d < number][-1:] + [d for d in found if d > number][:1])


def steps(rows: int, epochs: float, batch: int) -> int:
    """Optimizer steps of a run; the last one of an epoch sees the rows that are left."""
    return math.ceil(math.ceil(rows / batch) * epochs)


def global_batch(block: Block, trains: bool, problems: Problems) -> int | None:
    """A stage's `global_batch`, checked against its `train:` as far as one process goes; None where none is written.

    `gradient_accumulation_steps: null` takes away what a recipe below had written.
    """
    written, train = block.get("global_batch"), block.get("train")
    if written is None:
        return None
    where = block.where("global_batch")
    if not trains:
        problems.add(where, f"kind '{block.get('kind')}' reads no global_batch", "Remove the key: it does not train.")
        return None
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        problems.add(where, f"global_batch is '{written}'", "Write rows per optimizer step, a whole number.")
        return None
    if not isinstance(train, Block):
        return None
    if ACCUMULATED in train and train.pop(ACCUMULATED) is not None:
        what = f"global_batch and train.{ACCUMULATED} are both written, and one follows from the other"
        problems.add(train.where(ACCUMULATED), what, f"Keep one, or write `{ACCUMULATED}: null`.")
    a_device: Any = current_names(train, "train", Problems(), []).get(A_DEVICE)
    if a_device is None:
        problems.add(where, f"global_batch needs train.{A_DEVICE}", f"Write `{A_DEVICE}: …`, rows at once on one GPU.")
    elif isinstance(a_device, int) and a_device > 0 and written % a_device:
        problems.add(where, _not_divisible(written, a_device, 1))
    return written
