"""Completions of prefix language models: a prompt is read with every token seeing all others, then token by token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ft.models.generation.engine import Engine
from ft.models.generation.kv_cache import BatchCache, NextTokenModel


class PrefixEngine(Engine):
    """Completes batch by batch: a prompt that has grown is read anew, since each of its tokens sees all others."""

    why_no_beams = "each token of a prompt sees those behind it, which transformers' search does not know of"

    def why_not_reusable(self) -> str:
        return "each token of a prompt sees those behind it"

    def new_cache(self, slots: int) -> BatchCache:
        return BatchCache(PrefixModel(self.model))


class PrefixModel(NextTokenModel):
    """The same model, whose prompts are prefixes."""

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        is_prompt = ids.shape[1] == mask.shape[1]
        return super().inputs(ids, mask) | ({"prefix_lengths": mask.sum(1)} if is_prompt else {})
