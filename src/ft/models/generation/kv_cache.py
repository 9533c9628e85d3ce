"""The key/value cache of requests that are completed side by side.

A slot is a row of the cache. In a SlotCache its columns are its tokens in the order read, so a slot is cut back by
counting, goes on behind any beginning of what it has read, and is written over by whichever request comes next.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ft.models.batching import pad
from ft.models.hidden_states import inner_of

MOVING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the longest row, so that keys read before are wrong later."""


def why_not_reusable(model: Any) -> str:
    """Why a row of this model's cache cannot be given to another request; empty where it can."""
    config = model.config.get_text_config(decoder=True)
    kinds = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__}
    if kinds:
        return f"its cache has layers of the kind {', '.join(sorted(kinds))}"
    return f"its rotary embedding is of the type {_rope(model)}" if has_moving_rope(model) else ""


def has_moving_rope(model: Any) -> bool:
    return _rope(model) in MOVING_ROPE


def _rope(model: Any) -> str:
    parameters = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return str(parameters.get("rope_type", ""))


class NextTokenModel:
    """A causal model asked for the logits behind the last column alone."""

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        # Bloom and MPT know no positions; they count the attention mask. The class is asked, since wrappers replace
        # the forward of an instance by one that takes anything.
        parameters = inspect.signature(type(inner_of(model)).forward).parameters
        self.takes_positions = "position_ids" in parameters

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def logits(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """(B, V) float32. `ids` and `positions` (B, T); `mask` (B, C + T) also covers the C cached columns."""
        inputs = {**self.inputs(ids, mask), "past_key_values": cache}
        if self.takes_positions:
            inputs["position_ids"] = positions
        with torch.no_grad():
            logits: Tensor = self.model(**inputs, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].float()

    def inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """What the model is given of new tokens (B, T) and the mask (B, C + T)."""
        return {"input_ids": ids, "attention_mask": mask.long()}


class SlotCache:
    """B slots of C columns. `lengths` (B,): tokens read in each."""

    def __init__(self, model: NextTokenModel, slots: int):
        self.model = model
        self.lengths = torch.zeros(slots, dtype=torch.long, device=model.device)
        self.layers = [_SlotLayer() for _ in DynamicCache(config=model.config).layers]
        self.cache: Cache = Cache(layers=[*self.layers])

    def prefill(self, slots: Sequence[int], known: Sequence[int], new: Sequence[Sequence[int]], columns: int) -> Tensor:
        """Keep the first `known[n]` tokens of each of these N slots and read `new[n]` behind them; (N, V).

        `columns` is what the longest of them will need in all.
        """
        rows, kept = self._tensor(slots), self._tensor(known)
        past = max(known)
        ids, own = pad(new, "left", self.model.device)
        before = torch.arange(past, device=rows.device) - (past - kept[:, None])  # (N, past): known tokens end together
        mask = torch.cat([before >= 0, own], dim=1)
        step = _Prefill(
            slots=len(self.lengths),
            columns=columns,
            rows=rows,
            before=before.clamp(min=0),
            source=own.nonzero(as_tuple=True),
            target=(kept[:, None] + own.cumsum(1) - 1)[own],
        )
        for layer in self.layers:
            layer.step = step
        positions = (mask.cumsum(1) - 1)[:, past:].clamp(min=0)
        logits = self.model.logits(ids, mask, positions, self.cache)
        self.lengths[rows] = kept + own.sum(1)
        return logits

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        """Read one token (B,) in each slot, of which those `active` (B,) count it as read; (B, V)."""
        width = int(self.lengths.max()) + 1
        for layer in self.layers:
            layer.step = _Decode(self.lengths, width)
        mask = torch.arange(width, device=tokens.device) <= self.lengths[:, None]
        logits = self.model.logits(tokens[:, None], mask, self.lengths[:, None], self.cache)
        self.lengths = self.lengths + active
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these slots alone, in this order."""
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.keep(rows)

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self.lengths.device)


class BatchCache:
    """Of a model whose cached rows cannot be given on: a batch is read from its beginning and lasts until all end."""

    def __init__(self, model: NextTokenModel):
        self.model = model
        self.cache: Cache = DynamicCache(config=model.config)
        self.mask = torch.zeros(0, 0, dtype=torch.bool)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Forget what there was, and read these prompts; (B, V)."""
        self.cache = DynamicCache(config=self.model.config)
        ids, self.mask = pad(prompts, "left", self.model.device)
        return self.model.logits(ids, self.mask, (self.mask.cumsum(1) - 1).clamp(min=0), self.cache)

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, active[:, None]], dim=1)
        return self.model.logits(tokens[:, None], self.mask, positions, self.cache)


@dataclass(frozen=True)
class _Prefill:
    """Where a layer finds and puts what N slots read next.

    rows, before  (N,), (N, P): slots and the columns of their known tokens, which end together
    source        row and column of every new token that is no padding, as two (M,)
    target        (M,) the column of its slot where it belongs
    slots, columns  how much room the cache has
    """

    slots: int
    columns: int
    rows: Tensor
    before: Tensor
    source: tuple[Tensor, ...]
    target: Tensor

    @property
    def past(self) -> int:
        """Columns before those that are read next, as masks count them."""
        return self.before.shape[1]


@dataclass(frozen=True)
class _Decode:
    """Every slot reads one token, which goes to its own column (B,); `width` columns are used then."""

    columns: Tensor
    width: int

    @property
    def past(self) -> int:
        return self.width - 1


class _SlotLayer(DynamicLayer):
    """Keys and values (B, H, C, D), written where `step` says."""

    keys: Tensor
    values: Tensor
    step: _Prefill | _Decode

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write what is new, (N, H, T, D), and return all that is attended to."""
        if isinstance(self.step, _Decode):
            rows = torch.arange(len(key_states), device=key_states.device)
            self.keys[rows, :, self.step.columns] = key_states[:, :, 0]
            self.values[rows, :, self.step.columns] = value_states[:, :, 0]
            return self.keys[:, :, : self.step.width], self.values[:, :, : self.step.width]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _with_room(self.keys, key_states, self.step)
        self.values = _with_room(self.values, value_states, self.step)
        return _read_and_write(self.keys, key_states, self.step), _read_and_write(self.values, value_states, self.step)

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]

    def get_seq_length(self) -> int:
        return self.step.past


def _with_room(cached: Tensor, states: Tensor, step: _Prefill) -> Tensor:
    """The cache with at least the columns that are needed. Zeros: what is masked is multiplied by 0 all the same, and
    0 times whatever the memory held may be no number."""
    there = cached.shape[2] if cached.numel() else 0
    if there >= step.columns:
        return cached
    wider = states.new_zeros(step.slots, states.shape[1], step.columns, states.shape[3])
    if there:
        wider[:, :, :there] = cached
    return wider


def _read_and_write(cached: Tensor, states: Tensor, step: _Prefill) -> Tensor:
    """Known tokens and new ones, (N, H, P + T, D), of which the new ones are put into the cache."""
    seen = states
    if step.past:
        columns = step.before[:, None, :, None].expand(-1, cached.shape[1], -1, cached.shape[3])
        seen = torch.cat([cached[step.rows].gather(2, columns), states], dim=2)
    row, column = step.source
    cached[step.rows[row], :, step.target] = states[row, :, column]
    return seen
