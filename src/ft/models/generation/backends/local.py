"""Answers from the model itself, in this process."""

from __future__ import annotations

from collections.abc import Iterator

from ft.models.generation.backends import Columns, WorkerSpec, answer
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.dialogue import Dialogue, Turn, answer_dialogues
from ft.models.generation.sampling import Sampling


class LocalWorker:
    """The engine completes a batch, as many requests side by side as the spec says. An answer depends on the seed and
    its key up to the rounding of a batch's arithmetic; the same batch gives the same answers bit by bit."""

    def __init__(self, spec: WorkerSpec):
        self.batch_size = spec.batch_size
        self.chat_model = ChatModel(spec.model, spec.folder, spec.chat_template, spec.quantization)

    def __call__(self, batch: Columns, sampling: Sampling) -> Iterator[Columns]:
        dialogues = [
            Dialogue(key, [Turn(messages[-1]["content"])], messages[:-1])
            for key, messages in zip(batch["key"], batch["messages"], strict=True)
        ]
        engine, renderer = self.chat_model.engine, self.chat_model.renderer
        for one in answer_dialogues(engine, renderer, dialogues, sampling, batch_size=self.batch_size):
            turn_answer = one.answers[0] if one.answers else None
            if turn_answer is None:
                yield answer(one.dialogue.key, None, 0, False)
            else:
                yield answer(one.dialogue.key, turn_answer.text, len(turn_answer.ids), turn_answer.ended)
