"""Only the hidden states that count: heads see no other position, and the last layer's MLP computes no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

# What an MLP is made of that looks at each token alone. Others may count tokens, as a mixture of experts does.
TOKENWISE = {"gate_proj", "up_proj", "gate_up_proj", "down_proj", "act_fn", "activation_fn"}


def inner_of(model: Any) -> Any:
    """The transformers model inside adapters: they replace its layers, never the model."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def window(config: PretrainedConfig) -> float:
    """Longest row in which every token still sees the first one."""
    spans = (getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None))
    return min((span for span in spans if span), default=float("inf"))


def let_select(backbone: Any) -> None:
    """Let `backbone(..., select=slots)` return the last hidden states of those slots only, shape (1, N, width); slot
    b * T + t is token t of row b. Behind its last attention it computes no others, where its layers are known."""
    whole, few = backbone.forward, _last_mlp(backbone)

    def forward(self: Any, *args: Any, select: Tensor | None = None, **inputs: Any) -> Any:
        if select is None:
            return whole(*args, **inputs)
        ids = inputs.get("input_ids")
        if few is None or ids is None:
            output = whole(*args, **inputs)
        else:
            with few.only(select, ids.shape):
                output = whole(*args, **inputs)
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1).index_select(0, select)[None]
        return output

    backbone.forward = MethodType(forward, backbone)


def _last_mlp(backbone: Any) -> _Few | None:
    from torch.nn import ModuleList
    from transformers.modeling_layers import GradientCheckpointingLayer

    stacks = [child for child in backbone.children() if isinstance(child, ModuleList)]
    layer = stacks[0][-1] if len(stacks) == 1 and len(stacks[0]) else None
    if not isinstance(layer, GradientCheckpointingLayer):
        return None
    mlp = dict(layer.named_children()).get("mlp")
    parts = {name for name, _ in mlp.named_children()} if mlp is not None else set()
    return _Few(layer, mlp) if parts and parts <= TOKENWISE else None


class _Few:
    """The MLP of a layer, for some slots only while `only` holds: elsewhere it gives 0, which nobody reads.

    Not where the layer runs again in backward: by then the slots would be another batch's.
    """

    def __init__(self, layer: Any, mlp: Any):
        self.layer, self.whole = layer, mlp.forward
        self.slots: Tensor | None = None
        self.shape: tuple[int, ...] = ()
        mlp.forward = self

    @contextmanager
    def only(self, slots: Tensor, shape: tuple[int, ...]) -> Iterator[None]:
        """`shape` (B, T) is that of the batch the slots are of."""
        if not (self.layer.gradient_checkpointing and self.layer.training):
            self.slots, self.shape = slots.unique(), tuple(shape)
        try:
            yield
        finally:
            self.slots = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.slots is None or hidden.shape[:2] != self.shape:
            whole: Tensor = self.whole(hidden)
            return whole
        found = self.whole(hidden.flatten(0, 1).index_select(0, self.slots)[None])[0]
        empty: Tensor = found.new_zeros(hidden.shape[0] * hidden.shape[1], found.shape[1])
        return empty.index_copy(0, self.slots, found).view(*hidden.shape[:2], -1)
