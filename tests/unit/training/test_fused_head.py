"""Scoring supervised positions alone is the same training, and less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer import add_fused_lm_head, utils

from ft.training.trl_compat import score_supervised_only

LABELS = [[-100, -100, 5, 6, -100, 7], [-100, 4, -100, -100, -100, -100]]


@pytest.fixture(autouse=True)
def _trl_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_use_triton", chunked_logprob._use_triton)  # a test before this one may have set it


def trained(base: Any, labels: list[list[int]]) -> tuple[float, list[torch.Tensor]]:
    """The loss and every gradient of one batch."""
    model = AutoModelForCausalLM.from_pretrained(base)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids = torch.arange(12).reshape(2, 6)
    loss = model(input_ids=ids, labels=torch.tensor(labels), fused_lm_head=True).loss
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


def test_loss_and_gradients_are_those_of_scoring_every_position(base):
    loss, gradients = trained(base, LABELS)
    score_supervised_only()
    assert trained(base, LABELS)[0] == pytest.approx(loss, rel=1e-6)
    for ours, theirs in zip(trained(base, LABELS)[1], gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_only_supervised_positions_reach_the_head(base, monkeypatch):
    scored, function = [], utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: Any) -> Any:
            scored.append(len(hidden))
            return function.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Counted)
    trained(base, LABELS)
    score_supervised_only()
    trained(base, LABELS)
    assert scored == [10, 4]


def test_a_batch_without_supervised_positions_has_no_loss_and_does_not_fail(base):
    score_supervised_only()
    loss, gradients = trained(base, [[-100] * 6] * 2)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)
