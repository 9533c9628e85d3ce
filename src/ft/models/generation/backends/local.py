"""Answers from the model itself, in this process."""

from __future__ import annotations

from collections.abc import Iterator

from ft.encode.pictures import picture_in
from ft.models.generation.backends import Columns, WorkerSpec, answer
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.engine import Request
from ft.models.generation.sampling import Sampling
from ft.models.token_budget import completion_budget


class LocalWorker:
    """The engine completes a batch, as many requests side by side as the spec says. An answer depends on the seed and
    its key up to the rounding of a batch's arithmetic; the same batch gives the same answers bit by bit."""

    def __init__(self, spec: WorkerSpec):
        self.batch_size, self.special_tokens = spec.batch_size, spec.special_tokens
        self.chat_model = ChatModel(spec.model, spec.folder, spec.chat_template, spec.quantization)

    def __call__(self, batch: Columns, sampling: Sampling) -> Iterator[Columns]:
        requests: dict[str, Request] = {}
        for key, messages, ids in zip(batch["key"], batch["messages"], batch["prompt_ids"], strict=True):
            limit = completion_budget(self.chat_model.positions, len(ids), sampling.max_new_tokens)
            if limit < 1:
                yield answer(key, None, 0, False)
            else:
                # as the first turn of a dialogue (models/generation/dialogue.py), whose random numbers these are
                requests[f"{key}\n0"] = Request(ids, f"{key}\n0", limit, picture_in(messages))
        engine = self.chat_model.engine
        for completion in engine.generate(requests.values(), sampling, batch_size=self.batch_size):
            key, ended = completion.key.rpartition("\n")[0], completion.finish_reason == "stop"
            if not ended and requests[completion.key].max_new_tokens != sampling.max_new_tokens:
                yield answer(key, None, 0, False)  # the model's positions cut it, and not the limit asked for
            else:
                text = self.chat_model.text(completion, special_tokens=self.special_tokens)
                yield answer(key, text, len(completion.text_ids), ended)
