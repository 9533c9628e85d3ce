"""Which of all captions is a picture's, and which of all pictures a caption's: shares found among the first K."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FIRST = (1, 5, 10)

Rerank = Callable[[Tensor, Tensor], Tensor]
"""(N, k) places of candidates for N queries, and their scores so far → better scores, (N, k)."""


def order_of(scores: Tensor, best: int = 0, rerank: Rerank | None = None) -> Tensor:
    """Candidates of each query from the likeliest on, (N, C) by scores (N, C). The `best` first are put in order again
    by `rerank`, whose scores are added to theirs, as the paper's code does."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    if not rerank or not best:
        return order
    first = order[:, :best]
    again = scores.gather(1, first) + rerank(first, scores.gather(1, first))
    inner = again.argsort(dim=1, descending=True, stable=True)
    return torch.cat([first.gather(1, inner), order[:, best:]], dim=1)


def recalls(order: Tensor, right: Tensor) -> dict[int, list[float]]:
    """K → for each query whether one of its right candidates, `right` (N, C), is among its first K."""
    hits = right.gather(1, order)
    return {first: hits[:, :first].any(1).float().tolist() for first in FIRST}
