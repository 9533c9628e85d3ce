"""What a 4-bit base computes in where a recipe does not say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Blocks = Mapping[str, Mapping[str, Any]]


def left_to_the_library(blocks: Blocks) -> str | None:
    """The dtype a stage trains in, when its 4-bit base would compute in transformers' default, float32, instead.

    Nothing is changed for the user: results made so stay what they are. Stages that only answer take the dtype they
    hold a model in, and have no `train:` block.
    """
    train, quantization = blocks.get("train"), blocks.get("quantization", {})
    if train is None or not quantization.get("load_in_4bit") or quantization.get("bnb_4bit_compute_dtype"):
        return None
    if train.get("use_cpu"):  # float32 throughout
        return None
    if train.get("fp16"):
        return "float16"
    return "bfloat16" if train.get("bf16", True) is not False else None
