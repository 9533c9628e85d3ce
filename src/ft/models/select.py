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


def window(config: Any) -> float:
    """Longest row in which every token still sees the first one."""
    spans = (getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None))
    return min((span for span in spans if span), default=float("inf"))


def let_select(backbone: Any) -> None:
    """Let `backbone(..., select=slots)` return the last hidden states of those slots only, shape (1, N, width)."""
    whole = backbone.forward

    def forward(self: Any, *args: Any, select: Tensor | None = None, **inputs: Any) -> Any:
        output = whole(*args, **inputs)
        return output if select is None else picked(output, select)

    backbone.forward = MethodType(forward, backbone)


def picked(output: Any, slots: Tensor) -> Any:
    """The output with the last hidden states (B, T, width) of those slots only, b * T + t; (1, N, width)."""
    output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, slots)[None]
    return output
