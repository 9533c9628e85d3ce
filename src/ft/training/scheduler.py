"""Whether a recipe's `lr_scheduler_kwargs` fit its scheduler: asked of transformers, before a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def try_scheduler(values: Mapping[str, Any]) -> None:
    """Raises ValueError where transformers cannot make the scheduler of a `train:` block. Where the block says nothing
    of it, nothing is imported."""
    options = values.get("lr_scheduler_kwargs")
    if not isinstance(options, Mapping) or not options:
        return
    import torch
    from transformers import get_scheduler

    name = values.get("lr_scheduler_type", "linear")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    try:
        get_scheduler(name, optimizer, 1, 10, scheduler_specific_kwargs=dict(options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_scheduler_kwargs do not fit the scheduler '{name}': {error}") from error
