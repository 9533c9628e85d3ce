"""bitsandbytes' kernel for CPUs with AVX512-BF16, switched on and off whatever CPU the tests get.

bitsandbytes 0.50.2 asks its native library once a layer (`Linear4bit.__init__`: `has_avx512bf16()`). Where the answer
is yes, the first evaluation packs the layer's weights anew, their constants rounded to bfloat16, and from then on every
product is `F.gemv_4bit`, which takes and returns bfloat16. Where the CPU lacks the instructions the packing is the
library's own and the kernel is played: the same rounding of inputs, weights and output, sums in float32. What is shown
so is how far bfloat16 is off, not the kernel's own order of sums. (One test's model was 0.0554 off on an EPYC with the
instructions, and is 0.0545 off as played.)
"""

from __future__ import annotations

from copy import copy
from typing import Any

import bitsandbytes.functional as functional
import bitsandbytes.nn.modules as modules
import pytest
import torch

HERE = functional.has_avx512bf16()


def switch(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    """Let 4-bit layers that are made from now on have the kernel, or not."""
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: on)
    if on and not HERE:
        monkeypatch.setattr(functional, "gemv_4bit", product)


def product(inputs: torch.Tensor, packed: torch.Tensor, out: Any = None, state: Any = None) -> torch.Tensor:
    """inputs (…, K) times the packed weights (N, K), in the dtype of the inputs."""
    weights = unpacked(packed, state).bfloat16().float()
    return (inputs.bfloat16().float() @ weights.T).bfloat16().to(inputs.dtype)


def unpacked(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """The weights (N, K) as the kernel has them: 4-bit codes times constants of bfloat16, one a block of a row."""
    state = copy(state)  # which the inverse changes
    state.original_nested = False  # keep the constants as they were rounded
    codes, _ = functional._convert_weight_packed_for_cpu_inverse(packed, copy(state))
    codes = codes.view(-1).to(torch.int32)
    codes = torch.stack((codes >> 4, codes & 15), dim=1).view(state.shape)
    constants = state.absmax.float().T.repeat_interleave(state.blocksize, dim=1)
    return state.code.float()[codes] * constants
