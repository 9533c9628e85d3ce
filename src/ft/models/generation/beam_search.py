"""Completions by transformers' own beam search: a batch is read from its beginning and lasts until all of it end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from ft.errors import fail
from ft.models.batching import pad
from ft.models.generation.engine import Completion, Engine, Follow, OnToken, Request
from ft.models.generation.sampling import Sampling


def complete_by_beams(
    engine: Engine,
    queue: Iterator[Request],
    sampling: Sampling,
    batch_size: int,
    follow: Follow | None,
    on_token: OnToken | None,
) -> Iterator[Completion]:
    """The likeliest completion that its beams find for each request, by the mean log-probability of its tokens.

    Requests side by side have one limit of tokens. `on_token` hears of the tokens of a completion when it has ended:
    before that any beam may still win.
    """
    if engine.why_no_beams:
        raise fail("decoding.beams", engine.why_no_beams, "Write another preset, or `beams: 1`.")
    waiting = deque(islice(queue, batch_size))
    while waiting:
        limit = engine.limit_of(waiting[0], sampling)
        batch = [request for request in waiting if engine.limit_of(request, sampling) == limit]
        waiting = deque(request for request in waiting if engine.limit_of(request, sampling) != limit)
        for request, completion in zip(batch, _complete(engine, batch, sampling, limit), strict=True):
            if on_token:
                for token in completion.completion_ids:
                    on_token(request.key, token)
            yield completion
            if (following := follow(completion) if follow else None) or (following := next(queue, None)):
                waiting.append(following)


def _complete(engine: Engine, batch: Sequence[Request], sampling: Sampling, limit: int) -> Iterator[Completion]:
    ids, mask = pad([request.prompt_ids for request in batch], engine.padding_side, engine.model.device)
    config = GenerationConfig(
        num_beams=sampling.beams,
        max_new_tokens=limit,
        do_sample=False,
        repetition_penalty=sampling.repetition_penalty,
        stop_strings=list(sampling.stop) or None,
        eos_token_id=list(engine.stop_ids) or None,
        pad_token_id=0,  # behind an end, where nothing is read
        return_dict_in_generate=True,
        output_logits=True,
    )
    with _no_defaults(engine.model), torch.no_grad():
        tokenizer = engine.tokenizer if sampling.stop else None
        found: Any = engine.model.generate(
            input_ids=ids, attention_mask=mask.long(), generation_config=config, tokenizer=tokenizer
        )
        logprobs = engine.model.compute_transition_scores(
            found.sequences, found.logits, found.beam_indices, normalize_logits=True
        )
    completions = found.sequences[:, found.sequences.shape[1] - logprobs.shape[1] :]
    for request, row, values in zip(batch, completions.tolist(), logprobs.tolist(), strict=True):
        length = next((n for n, token in enumerate(row, 1) if token in engine.stop_ids), len(row))
        if sampling.stop:
            length = next((n for n in range(1, length) if engine.stop_text(row[:n], sampling)), length)
        yield engine.completion(request.key, row[:length], values[:length], sampling)


@contextmanager
def _no_defaults(model: Any) -> Iterator[None]:
    """transformers fills what a config leaves open from the model's own, which may force tokens or a length (BART's
    takes four beams and repeats no three tokens): what a recipe does not say is not in force."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    if getattr(model.config, "is_encoder_decoder", False):
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id
    try:
        yield
    finally:
        model.generation_config = own
