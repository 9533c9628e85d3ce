"""Only the hidden states that count: heads see no other position."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def inner_of(model: Any) -> Any:
    """The transformers model inside adapters: they replace its layers, never the model."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def let_select(backbone: Any) -> None:
    """Let `backbone(..., select=slots)` return the last hidden states of those slots only, shape (1, N, width)."""
    whole = backbone.forward

    def forward(self: Any, *args: Any, select: Tensor | None = None, **inputs: Any) -> Any:
        output = whole(*args, **inputs)
        if select is not None:
            output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, select)[None]
        return output

    backbone.forward = MethodType(forward, backbone)
