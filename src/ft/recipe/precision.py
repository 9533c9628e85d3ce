"""The dtype a stage computes in on a GPU: decided here for launchers, memory plans, exports and advice alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ft.recipe.kind import Kind

Dtype = Literal["float32", "bfloat16", "float16"]
Blocks = Mapping[str, Mapping[str, Any]]

INFERENCE: Dtype = "bfloat16"
"""What a stage that trains nothing holds its models in on a GPU; on a CPU they are held in float32."""


def dtype_of_arguments(train: Mapping[str, Any], bf16: bool | None = None) -> Dtype:
    """The dtype a Trainer with these arguments computes in.

    `bf16` is the class's default where they hold none. TRL's is None, which its `__post_init__` makes True unless fp16
    is on; transformers' own is False.
    """
    if train.get("use_cpu"):  # ft trains in float32 there, and refuses half precision that is asked for
        return "float32"
    if train.get("fp16"):
        return "float16"
    return "float32" if train.get("bf16", bf16) is False else "bfloat16"


def dtype_of_stage(kind: Kind, blocks: Blocks) -> Dtype:
    """The dtype a stage of this kind computes in on a GPU."""
    if not kind.trains:
        return INFERENCE
    train = blocks.get("train", {})
    return dtype_of_arguments(train, None if "bf16" in train else kind.blocks["train"].default("bf16"))


def dtype_to_advise(kind: Kind, blocks: Blocks) -> Dtype | None:
    """The dtype a stage trains in, when its 4-bit base would compute in transformers' default, float32, instead.

    Nothing is changed for the user: results made so stay what they are. A stage that only answers gives a 4-bit model
    the dtype it holds it in.
    """
    quantization = blocks.get("quantization", {})
    if not kind.trains or not quantization.get("load_in_4bit") or quantization.get("bnb_4bit_compute_dtype"):
        return None
    dtype = dtype_of_stage(kind, blocks)
    return None if dtype == "float32" else dtype
