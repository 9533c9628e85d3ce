"""The load of a mixture of experts is counted as its routers choose, and logged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

import tiny
from ft.training.experts import log_expert_load


@pytest.fixture
def trainer() -> Any:
    torch.manual_seed(0)
    config = MixtralConfig(**tiny.SMALL, num_local_experts=4, num_experts_per_tok=2)
    logged: list[dict[str, float]] = []
    accelerator = SimpleNamespace(device="cpu", reduce=lambda values, how: values)
    return SimpleNamespace(
        model=MixtralForCausalLM(config).train(),
        accelerator=accelerator,
        log=lambda logs, start_time=None: logged.append(logs),
        logged=logged,
    )


def test_the_load_is_that_of_the_routers_own_choice(trainer):
    log_expert_load(trainer)
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(0))
    output = trainer.model(input_ids=ids, output_router_logits=True)
    trainer.log({"loss": 1.0})
    entropies = []
    for logits in output.router_logits:
        counts = torch.bincount(logits.topk(2, dim=-1).indices.flatten(), minlength=4)
        shares = counts / counts.sum()
        entropies.append(-sum(float(share) * math.log(share) for share in shares if share) / math.log(4))
    assert trainer.logged[0]["expert_load_entropy"] == pytest.approx(sum(entropies) / 2, abs=1e-6)
    assert trainer.logged[0]["dead_experts"] == 0


def test_an_expert_that_no_token_goes_to_is_dead(trainer):
    log_expert_load(trainer)
    for layer in trainer.model.model.layers:
        layer.mlp.gate.weight.data.zero_()  # ties go to the first ones
    trainer.model(input_ids=torch.ones(1, 8, dtype=torch.long))
    trainer.log({})
    assert trainer.logged[0]["dead_experts"] == 2 * 2
    assert trainer.logged[0]["expert_load_entropy"] == pytest.approx(0.5)


def test_a_held_out_batch_is_not_counted_and_a_log_begins_anew(trainer):
    log_expert_load(trainer)
    trainer.model.eval()(input_ids=torch.ones(1, 8, dtype=torch.long))
    trainer.log({"eval_loss": 1.0})
    trainer.model.train()
    trainer.log({"loss": 1.0})
    assert trainer.logged == [{"eval_loss": 1.0}, {"loss": 1.0}]


def test_a_model_without_experts_logs_as_before(base):
    from transformers import LlamaForCausalLM

    log = object()
    trainer: Any = SimpleNamespace(model=LlamaForCausalLM.from_pretrained(str(base)), log=log)
    log_expert_load(trainer)
    assert trainer.log is log
