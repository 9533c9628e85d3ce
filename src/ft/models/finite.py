"""Weights and scores that are NaN or infinite: no stage starts from them, learns from them or leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from ft.errors import fail

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def refuse_broken_weights(model: Module, where: str, what: str, fix: str) -> None:
    """Raises UserError, with the names of the tensors, where a weight is NaN or infinite. `what` holds them."""
    names = list(_broken(model.named_parameters()))
    if names:
        rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise fail(where, f"{what} NaN or infinite values, first in {names[0]}{rest}", fix)


def refuse_broken_scores(scores: Sequence[float], where: str) -> None:
    """Raises UserError where a reward model gave a score that is NaN or infinite."""
    count = sum(not isfinite(score) for score in scores)
    if count:
        what = f"{count} of {len(scores)} scores are NaN or infinite"
        raise fail(where, what, "Train the reward model again with a lower learning rate, or in float32.")


def _broken(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """Names of the tensors with such a value; packed 4-bit and 8-bit weights are whole numbers, and hold none."""
    return (name for name, value in tensors if value.is_floating_point() and not bool(value.isfinite().all()))
