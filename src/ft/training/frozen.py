"""What a stage says stays as it is does so, bit for bit: looked at when training begins and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.errors import fail

if TYPE_CHECKING:
    from torch.nn import Module


class FrozenParts(TrainerCallback):
    """Raises UserError at the end of training where a parameter that is not trained has changed.

    It compares the exclusive or of each parameter's bits, which any single change changes.
    """

    def __init__(self, where: str):
        self.where = where
        self.before: dict[str, int] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.before = _bits(model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        after = _bits(model)
        if changed := [name for name in self.before if after.get(name) != self.before[name]]:
            what = f"{len(changed)} parameters that were to stay as they are have changed, the first {changed[0]}"
            raise fail(self.where, what, "This is a fault of the training: nothing of it is kept.")


def _bits(model: Module) -> dict[str, int]:
    """By the name of each frozen parameter the exclusive or of its values' bits."""
    return {
        name: int(torch.hash_tensor(value.detach()).view(torch.int64))
        for name, value in model.named_parameters()
        if not value.requires_grad
    }
