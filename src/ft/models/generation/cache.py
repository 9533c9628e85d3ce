"""What a batch of sequences has read, as keys and values: kept between calls, cut back and thinned out as they go on.

Rows are of different lengths, so columns of the cache stay unused here and there. The mask says which hold a token,
and positions count tokens, not columns, so unused columns change nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

MOVING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the longest row, so that old keys are wrong later."""


class Memory:
    """Rows that a model reads on. `mask` is (B, C): column c of row n holds a token it has read.

    The tokens of a row stand in the order read. With `carried` False nothing is kept from one `keep` to the next.
    """

    def __init__(self, model: Any, rows: int, carried: bool):
        self.model, self.carried = model, carried
        self.config = model.config.get_text_config(decoder=True)
        self.mask = torch.zeros(rows, 0, dtype=torch.bool, device=model.device)
        self.layers = [_Layer() for _ in DynamicCache(config=self.config).layers]
        self.cache: Cache = Cache(layers=[*self.layers])

    def keep(self, rows: list[int], lengths: list[int], room: int) -> None:
        """Go on with `rows` and the first `lengths[n]` tokens of each, and make room for `room` columns more."""
        if not self.carried:
            self.cache = DynamicCache(config=self.config)
            self.mask = self.mask.new_zeros(len(rows), 0)
            return
        places, limits = self._tensor(rows), self._tensor(lengths)
        old = self.mask[places]
        kept = old & (old.cumsum(1) <= limits[:, None])
        columns = kept.int().argsort(dim=1, stable=True)[:, kept.shape[1] - max(lengths) :]  # kept ones to the right
        self.mask = kept.gather(1, columns)
        for layer in self.layers:
            layer.take(places, columns, room)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read `ids` where `mask` is set, both (B, T), and return the logits after the last column, (B, V) float32."""
        read = self.mask.sum(1, keepdim=True)
        positions = (read + mask.cumsum(1) - 1).clamp(min=0)
        self.mask = torch.cat([self.mask, mask], dim=1)
        with torch.no_grad():
            out = self.model(
                input_ids=ids,
                attention_mask=self.mask.long(),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].float()

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.mask.device)


def not_carried(model: Any) -> str:
    """Why this model's keys and values cannot be kept from turn to turn; empty where they can."""
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__}
    if kinds:
        return f"its cache has layers of the kind {', '.join(sorted(kinds))}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    return f"its rotary embedding is of the type {rope}" if rope in MOVING_ROPE else ""


class _Layer(DynamicLayer):
    """A DynamicLayer that writes in place: appending with torch.cat copies everything read at every token."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.used = self.room = 0

    def take(self, rows: Tensor, columns: Tensor, room: int) -> None:
        """Keep `columns` (B', C') of `rows` (B',), with `room` unused columns behind them."""
        self.room = room
        if self.is_initialized:
            self.keys = _taken(self.keys, rows, columns, room)
            self.values = _taken(self.values, rows, columns, room)
            self.used = columns.shape[1]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) behind what is used, and return all that is."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (_wide(states, self.room) for states in (key_states, value_states))
        start, self.used = self.used, self.used + key_states.shape[2]
        self.keys[:, :, start : self.used] = key_states
        self.values[:, :, start : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used


def _wide(states: Tensor, columns: int) -> Tensor:
    batch, heads, _, size = states.shape
    return states.new_empty(batch, heads, columns, size)


def _taken(states: Tensor, rows: Tensor, columns: Tensor, room: int) -> Tensor:
    old, width = states[rows], columns.shape[1]
    index = columns[:, None, :, None].expand(-1, old.shape[1], -1, old.shape[3])
    new = _wide(old, width + room)
    new[:, :, :width] = old.gather(2, index)
    return new
