"""Completions of models that read a picture in front of the text.

Each picture that is asked about gets token ids of its own behind the vocabulary, whose embeddings are what the queries
saw. So the engine, its slots and its cache are those of text: a dialogue goes on behind the picture that it has read,
and a slot's beginning is known again only where the picture is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ft.encode.pictures import PictureReader, reader_of
from ft.models.batching import pad
from ft.models.generation.engine import Completion, Engine, Follow, OnToken, Request
from ft.models.generation.kv_cache import NextTokenModel
from ft.models.generation.sampling import Sampling
from ft.models.generation.seq2seq import EncodedPrompts, Seq2SeqEngine
from ft.models.hidden_states import inner_of


class PictureTable:
    """The pictures of one engine as embeddings: ids from the vocabulary's size on, the same picture always the same."""

    def __init__(self, model: Any, reader: PictureReader):
        self.model, self.reader = model, reader
        self.words = inner_of(model).get_input_embeddings()
        self.first = self.words.num_embeddings
        self.ids: dict[str, list[int]] = {}
        self.seen = torch.zeros(0)

    def request(self, request: Request) -> Request:
        """The request with its picture's own ids in the place of its picture tokens."""
        places = [n for n, id in enumerate(request.prompt_ids) if id == self.reader.token_id]
        wanted = self.reader.tokens if request.picture else 0
        if len(places) != wanted:
            raise ValueError(f"a prompt has {len(places)} picture tokens, and its picture has {wanted}")
        if not request.picture:
            return request
        ids = list(request.prompt_ids)
        for place, id in zip(places, self._ids_of(request.picture), strict=True):
            ids[place] = id
        return replace(request, prompt_ids=ids)

    def _ids_of(self, picture: str) -> list[int]:
        if picture not in self.ids:
            pixels = self.reader.pixels([picture]).to(self.words.weight.device)
            with torch.no_grad():
                seen = inner_of(self.model).get_image_features(pixels, return_dict=True).pooler_output[0]
            start = self.first + len(self.seen)
            self.seen = torch.cat([self.seen.to(seen), seen])
            self.ids[picture] = list(range(start, start + len(seen)))
        return self.ids[picture]

    def embeddings(self, ids: Tensor) -> Tensor:
        """(B, T, W) of words and pictures."""
        is_word = ids < self.first
        embedded = self.words(ids.where(is_word, 0))
        if len(self.seen):
            pictures = self.seen[(ids - self.first).clamp(min=0)].to(embedded)
            embedded = torch.where(is_word[..., None], embedded, pictures)
        return embedded


class _TextModel:
    """The language model of a BLIP-2, asked by ids that may be pictures', as an engine asks a model of text."""

    def __init__(self, table: PictureTable):
        self.table = table
        self.model = inner_of(table.model).language_model
        self.config, self.device = self.model.config, table.words.weight.device
        self.takes_positions = "position_ids" in inspect.signature(type(self.model).forward).parameters

    @property
    def training(self) -> bool:
        return bool(self.table.model.training)

    def forward(self, input_ids: Tensor, position_ids: Tensor, **inputs: Any) -> Any:
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        return self.model(inputs_embeds=self.table.embeddings(input_ids), **positions, **inputs)

    __call__ = forward


class _PictureRequests(Engine):
    """An engine whose requests may have pictures."""

    why_no_beams = "pictures are read in front of the text, which transformers' search does not know of"

    table: PictureTable

    def generate(
        self,
        requests: Iterable[Request],
        sampling: Sampling,
        *,
        batch_size: int = 64,
        follow: Follow | None = None,
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        def follow_on(completion: Completion) -> Request | None:
            request = follow(completion) if follow else None
            return self.table.request(request) if request else None

        pictured = map(self.table.request, requests)
        return super().generate(
            pictured, sampling, batch_size=batch_size, follow=follow_on if follow else None, on_token=on_token
        )


class PictureEngine(_PictureRequests):
    """Of a BLIP-2 whose language model is a decoder."""

    def __init__(self, model: Any, stop_ids: Sequence[int], *, reuse_cache: bool = True, tokenizer: Any = None):
        self.table = PictureTable(model, _reader(tokenizer))
        super().__init__(_TextModel(self.table), stop_ids, reuse_cache=reuse_cache)


class PicturedPromptEngine(_PictureRequests, Seq2SeqEngine):
    """Of a BLIP-2 whose language model is an encoder-decoder."""

    def __init__(self, model: Any, stop_ids: Sequence[int], *, reuse_cache: bool = True, tokenizer: Any = None):
        self.table = PictureTable(model, _reader(tokenizer))
        super().__init__(inner_of(model).language_model, stop_ids, reuse_cache=reuse_cache)

    def new_cache(self, slots: int) -> EncodedPrompts:
        return _EncodedPictures(NextTokenModel(self.model), self.table)


class _EncodedPictures(EncodedPrompts):
    def __init__(self, model: NextTokenModel, table: PictureTable):
        super().__init__(model)
        self.table = table

    def encode(self, prompts: Sequence[Sequence[int]]) -> Any:
        ids, own = pad(prompts, "right", self.model.device)
        self.mask = own.long()
        with torch.no_grad():
            return self.model.model.get_encoder()(inputs_embeds=self.table.embeddings(ids), attention_mask=self.mask)


def _reader(tokenizer: Any) -> PictureReader:
    reader = reader_of(tokenizer)
    if reader is None:
        raise ValueError("a model that reads pictures is asked with its own tokenizer")
    return reader
