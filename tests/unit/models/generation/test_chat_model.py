"""What a loaded model samples is decided by the seed and the prompt, whatever it is answered with."""

from pathlib import Path

import pytest

from ft.models.generation.chat_model import ChatModel
from ft.models.generation.sampling import Sampling

QUESTIONS = [
    [{"role": "user", "content": text}] for text in ("sky?", "what colour is the frog?", "hi", "and the crow?")
]


@pytest.fixture(scope="module")
def chat_model(base: Path) -> ChatModel:
    return ChatModel(None, base)


@pytest.mark.parametrize("sampling", [Sampling(12, 1.0, seed=3), Sampling(12, 1.0, 0.9, seed=3)], ids=["all", "top_p"])
def test_a_sampled_answer_does_not_depend_on_the_batch(chat_model: ChatModel, sampling: Sampling) -> None:
    together = chat_model.answer(QUESTIONS, sampling)
    assert chat_model.answer(QUESTIONS, sampling, batch_size=1) == together
    assert chat_model.answer(QUESTIONS[2:], sampling) == together[2:]


def test_a_question_asked_four_times_gets_four_samples_in_every_batch(chat_model: ChatModel) -> None:
    sampling = Sampling(12, 1.0, seed=3)
    answers = chat_model.answer(QUESTIONS[:1] * 4, sampling)
    assert len(set(answers)) == 4
    assert chat_model.answer(QUESTIONS[:1] * 4, sampling, batch_size=1) == answers
    assert chat_model.answer(QUESTIONS[:1] * 2, sampling) == answers[:2]


def test_a_streamed_sampled_answer_is_the_answer_of_a_batch(chat_model: ChatModel) -> None:
    sampling, pieces = Sampling(12, 1.0, 0.9, seed=3), list[str]()
    chat_model.stream(chat_model.renderer.prompt(QUESTIONS[1]), sampling, pieces.append)
    assert "".join(pieces).strip() == chat_model.answer(QUESTIONS, sampling)[1]
