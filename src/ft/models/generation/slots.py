"""Rows that are answered side by side, of which a finished one gives its seat to the next prompt at once.

Answers end when they like: a batch that waits for its longest is mostly empty. A seat is a row of the key/value cache,
and its columns are its tokens in the order read, so whoever sits down writes over what was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class Seats:
    """`columns` tokens a seat at most. `lengths` (B,): tokens read in each; no model of `not_carried`."""

    def __init__(self, model: Any, seats: int, columns: int):
        self.model, self.columns = model, columns
        self.config = model.config.get_text_config(decoder=True)
        self.lengths = torch.zeros(seats, dtype=torch.long, device=model.device)
        self.layers = [_Layer(seats, columns) for _ in DynamicCache(config=self.config).layers]
        self.cache: Cache = Cache(layers=[*self.layers])

    def sit(self, seats: Tensor, prompts: Sequence[list[int]]) -> Tensor:
        """Read a prompt in each of these seats; the logits after it, (N, V) float32."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.lengths.device)
        width = int(lengths.max())
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        steps = torch.arange(width, device=lengths.device)
        first = width - lengths[:, None]
        cache = DynamicCache(config=self.config)
        logits = self._logits(ids.to(lengths.device), (steps >= first).long(), (steps - first).clamp(min=0), cache)
        columns = (steps + first).clamp(max=width - 1)  # padding comes to stand behind the prompt, where nobody looks
        read: Any = cache.layers  # DynamicLayers all, as `not_carried` has seen
        for mine, theirs in zip(self.layers, read, strict=True):
            mine.take(seats, theirs.keys, theirs.values, columns)
        self.lengths[seats] = lengths
        return logits

    def read(self, tokens: Tensor, speaking: Tensor) -> Tensor:
        """Read one token (B,) in each seat, of which those `speaking` (B,) keep it; the logits after it, (B, V)."""
        width = int(self.lengths.max()) + 1
        for layer in self.layers:
            layer.aim(self.lengths, width)
        mask = torch.arange(width, device=tokens.device) <= self.lengths[:, None]
        logits = self._logits(tokens[:, None], mask.long(), self.lengths[:, None], self.cache)
        self.lengths = self.lengths + speaking
        return logits

    def close(self, stay: Tensor) -> None:
        """Go on with these seats alone."""
        self.lengths = self.lengths[stay]
        for layer in self.layers:
            layer.close(stay)

    def _logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        with torch.no_grad():
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = out.logits[:, -1].float()
        return logits


class _Layer(DynamicLayer):
    """Keys and values (B, H, C, D), written at each row's own column."""

    keys: Tensor
    values: Tensor

    def __init__(self, seats: int, columns: int):
        super().__init__()
        self.seats, self.columns = seats, columns
        self.width = 0

    def take(self, seats: Tensor, keys: Tensor, values: Tensor, columns: Tensor) -> None:
        """Write `columns` (N, T) of keys and values (N, H, T, D) at the beginning of these seats."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            self.keys, self.values = (self._empty(states) for states in (keys, values))
        for mine, theirs in ((self.keys, keys), (self.values, values)):
            index = columns[:, None, :, None].expand(-1, theirs.shape[1], -1, theirs.shape[3])
            mine[seats, :, : columns.shape[1]] = theirs.gather(2, index)

    def _empty(self, states: Tensor) -> Tensor:
        """Zeros: what is masked is multiplied all the same, and must be a number."""
        return states.new_zeros(self.seats, states.shape[1], self.columns, states.shape[3])

    def aim(self, columns: Tensor, width: int) -> None:
        """Write next at these columns (B,), and be `width` columns wide then."""
        self.at, self.width = columns, width

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(self.at), device=self.at.device)
        self.keys[rows, :, self.at] = key_states[:, :, 0]
        self.values[rows, :, self.at] = value_states[:, :, 0]
        return self.keys[:, :, : self.width], self.values[:, :, : self.width]

    def close(self, stay: Tensor) -> None:
        self.keys, self.values = self.keys[stay], self.values[stay]

    def get_seq_length(self) -> int:
        """Columns before the token that is read next, as masks count them."""
        return self.width - 1
