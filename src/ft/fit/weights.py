"""Bytes of what stays: weights by dtype and quantisation, gradients, and the optimizer's states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.errors import fail
from ft.fit.shapes import Linear, Shape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

# Bytes of state a parameter, both of them in the parameter's float32, or in 8 bits with a float32 constant a block.
BLOCK_8BIT = 256
_EIGHT, _MOMENT = 2 * (1 + 4 / BLOCK_8BIT), 1 + 4 / BLOCK_8BIT
STATES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_apex_fused", "paged_adamw"), 8.0),
    **dict.fromkeys(("paged_adamw_32bit", "stable_adamw", "adamw_anyprecision"), 8.0),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), _EIGHT),
    **dict.fromkeys(("lion", "lion_32bit", "paged_lion", "paged_lion_32bit", "rmsprop", "adagrad", "rmsprop_bnb"), 4.0),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), _MOMENT),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 12.0),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3 * _MOMENT),
    "sgd": 0.0,
}


def model_weights(shape: Shape, dtype: str, quantization: Mapping[str, Any] | None) -> int:
    """Bytes of the weights as they stand in memory.

    Quantised are the matrices of decoder layers; embeddings, the head, norms, biases and experts of three dimensions
    keep their dtype (transformers 5.23).
    """
    bytes_each = BYTES[dtype]
    if not quantization:
        return shape.parameters * bytes_each
    total = shape.parameters * bytes_each
    for count, layer in shape.stacks:
        for linear in layer.linears:
            stays = linear.name.rpartition(".")[2] in shape.unquantised
            size = linear.columns * linear.rows
            total += count * ((4 * size if stays else quantised_bytes(linear, quantization)) - bytes_each * size)
    return total


def quantised_bytes(linear: Linear, quantization: Mapping[str, Any]) -> int:
    """Bytes of one quantised matrix with its constants, as bitsandbytes 0.50 holds them.

    4-bit: half a byte a parameter; one float32 constant a block of 64, and a table of 16. Double quantisation holds
    the constants in one byte each, one float32 a block of 256 of them, a table of 256 and an offset.
    8-bit: a byte a parameter, and a float32 a row.
    """
    count = linear.columns * linear.rows
    if not quantization.get("load_in_4bit"):
        return count + 4 * linear.rows
    constants = -(-count // 64)
    if quantization.get("bnb_4bit_use_double_quant"):
        return -(-count // 2) + constants + 4 * -(-constants // 256) + 4 * 256 + 4 + 4 * 16
    return -(-count // 2) + 4 * constants + 4 * 16


def optimizer_of(train: Mapping[str, Any]) -> str:
    return str(train["optim"])


def paged(optimizer: str) -> bool:
    """Whether its states leave the GPU when there is no room."""
    return optimizer.startswith("paged_")


def optimizer_states(optimizer: str, trained: int, layer: tuple[Linear, ...], where: str) -> int:
    """Bytes of the optimizer's states for `trained` float32 parameters.

    Adafactor keeps a row and a column a matrix; how much that is is taken from the matrices of a layer. 8-bit states
    are for tensors of 4,096 elements and more; smaller ones are too few to count.
    """
    if optimizer == "adafactor":
        matrices = sum(linear.columns * linear.rows for linear in layer)
        return int(4 * trained * sum(linear.columns + linear.rows for linear in layer) / max(1, matrices))
    if optimizer not in STATES:
        raise fail(where, f"ft does not know how much optim '{optimizer}' keeps", f"It knows: {', '.join(STATES)}.")
    return int(STATES[optimizer] * trained)


def step_extra(optimizer: str, trained: int) -> int:
    """Bytes the step itself needs: `adamw_torch` goes over all tensors at once and holds one more of each; the fused
    and the 8-bit ones work in place."""
    return 4 * trained if optimizer in ("adamw_torch", "adafactor", "rmsprop", "adagrad") else 0
