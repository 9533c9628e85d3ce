"""Completions of encoder-decoders: a prompt is encoded once, and the decoder writes behind a start token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from ft.models.batching import pad
from ft.models.generation.engine import Engine, Request
from ft.models.generation.kv_cache import BatchCache, NextTokenModel
from ft.models.hidden_states import inner_of


class Seq2SeqEngine(Engine):
    """Completes batch by batch: a prompt that has grown is encoded anew, since each of its tokens sees all others."""

    padding_side = "right"  # learnt positions are counted from the first column

    def known_ids(self, request: Request) -> list[int]:
        """The prompt is the encoder's: a repetition of its words is none."""
        return [inner_of(self.model).config.decoder_start_token_id]

    def why_not_reusable(self) -> str:
        return "the encoder reads each prompt as a whole"

    def new_cache(self, slots: int) -> BatchCache:
        return EncodedPrompts(NextTokenModel(self.model))


class EncodedPrompts(BatchCache):
    """Prompts as the encoder left them, and what the decoder has written to them, from the same column on in all rows.

    Rows that have ended are written on with tokens that nobody reads.
    """

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self.encoded: Any = self.encode(prompts)
        self.cache = EncoderDecoderCache(*(DynamicCache(config=self.model.config) for _ in range(2)))
        start = inner_of(self.model.model).config.decoder_start_token_id
        return self._read(torch.full((len(prompts), 1), start, device=self.model.device))

    def encode(self, prompts: Sequence[Sequence[int]]) -> Any:
        """What the encoder makes of them; its mask is kept."""
        ids, own = pad(prompts, Seq2SeqEngine.padding_side, self.model.device)
        self.mask = own.long()
        with torch.no_grad():
            return inner_of(self.model.model).get_encoder()(input_ids=ids, attention_mask=self.mask)

    def decode(self, tokens: Tensor, active: Tensor) -> Tensor:
        return self._read(tokens[:, None])

    def _read(self, ids: Tensor) -> Tensor:
        """The logits (B, V) behind one more token (B, 1)."""
        with torch.no_grad():
            logits: Tensor = self.model.model(
                encoder_outputs=self.encoded,
                attention_mask=self.mask,
                decoder_input_ids=ids,
                past_key_values=self.cache,
                use_cache=True,
            ).logits
        return logits[:, -1].float()
