"""Rows of unequal length as tensors, and which of them go through a model side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor


def pad(
    rows: Sequence[Sequence[float]], side: Literal["left", "right"], device: Any = None, value: float = 0
) -> tuple[Tensor, Tensor]:
    """Rows filled up with `value` to the longest, and which places hold a row's own (True); both (B, T).

    A causal model sees nothing from the right of a token, so right padding changes no hidden state of a row and needs
    no position ids; rows that are to be continued are padded on the left, so that all of them end at the last column.
    """
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    columns = torch.arange(width)
    own = columns < lengths[:, None] if side == "right" else columns >= width - lengths[:, None]
    flat = torch.tensor([number for row in rows for number in row])
    padded = torch.full(own.shape, value, dtype=flat.dtype)
    padded[own] = flat  # masked places are filled row by row, which is the order of `flat` on both sides
    return padded.to(device), own.to(device)


def batches_by_length(lengths: Sequence[int], batch_size: int, longest_first: bool = False) -> Iterator[list[int]]:
    """Row numbers in batches of rows of about one length, so that little of a batch is padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row] if longest_first else lengths[row])
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
