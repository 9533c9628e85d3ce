"""Positions of every sort train a step, are known by the plan, and are scaled where a recipe says so."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
from ft.errors import UserError
from ft.models.generation.engine import Engine, Request
from ft.models.generation.sampling import Sampling
from ft.models.load import load_base
from ft.models.logprobs import row_logprobs, token_logprobs_of_rows
from ft.models.processor import load_config
from ft.models.token_budget import positions_of
from ft.recipe import ModelSource
from wording import Like

SCALED: dict[str, dict[str, Any]] = {
    name: {"rope_type": name, "factor": 2.0} for name in ("linear", "dynamic", "yarn", "default")
}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 97}
OTHERS: dict[str, dict[str, Any]] = {
    "learned": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 97},
    "ALiBi": {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 97},
}
ROPES = {
    name: {"model_type": "llama", "intermediate_size": 128, "max_position_embeddings": 16, **SIZES}
    | {"rope_parameters": {**scaling, "rope_theta": 10000.0, "original_max_position_embeddings": 8}}
    for name, scaling in SCALED.items()
    if name != "default"
}


@pytest.mark.parametrize("name", [*OTHERS, *ROPES])
def test_a_model_with_these_positions_trains_a_step_and_its_cache_holds(name):
    values = dict({**OTHERS, **ROPES}[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    ids = torch.randint(0, 97, (2, 12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        losses.append(model(ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    model.eval()
    (found,) = Engine(model, []).complete([Request(ids[0].tolist(), "a")], Sampling(3))
    row = ids[0].tolist()
    for token in found.completion_ids:  # as read from the beginning each time
        with torch.no_grad():
            assert int(model(torch.tensor([row])).logits[0, -1].argmax()) == token
        row.append(token)


@pytest.mark.parametrize("name", SCALED)
def test_a_recipe_scales_the_positions_of_a_model(base, name):
    plain = load_config(ModelSource(str(base)))
    model = load_base(ModelSource(str(base), rope=SCALED[name]), "float32", None, use_cpu=True)
    own = model.config.rope_parameters
    assert positions_of(model) == 2 * plain.max_position_embeddings
    assert own["rope_theta"] == plain.rope_parameters["rope_theta"]
    assert own["rope_type"] == name
    frequencies = model.model.rotary_emb.inv_freq
    halved = load_base(ModelSource(str(base)), "float32", None, use_cpu=True).model.rotary_emb.inv_freq / 2
    assert bool(torch.allclose(frequencies, halved)) == (name == "linear")


def test_linear_scaling_reads_every_second_position_as_the_model_read_each(base):
    plain, scaled = (
        load_base(source, "float32", None, use_cpu=True).eval()
        for source in (ModelSource(str(base)), ModelSource(str(base), rope=SCALED["linear"]))
    )
    ids = torch.randint(0, 90, (1, 9))
    with torch.no_grad():
        expected = plain(ids).logits
        found = scaled(ids, position_ids=2 * torch.arange(9)[None]).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_scaling_decides_the_result_and_what_cannot_be_scaled_is_refused(tmp_path, base, data):
    def fingerprint(model: Any) -> str:
        file = tiny.recipe(tmp_path, [tiny.sft(data)], model=model)
        return tiny.planned(file, tmp_path / "runs").stage("sft").fingerprint

    assert fingerprint(str(base)) == fingerprint({"path": str(base)})
    assert fingerprint({"path": str(base), "rope": SCALED["yarn"]}) != fingerprint(str(base))
    with pytest.raises(UserError) as refused:
        fingerprint({"path": str(base), "rope": {"rope_type": "ntk", "factor": 2}})
    assert str(refused.value) == Like("… rope.rope_type is 'ntk'; there are: linear, dynamic, yarn, default.")
    gpt2 = AutoConfig.for_model("gpt2", n_embd=64, n_layer=1, n_head=2, vocab_size=97)
    gpt2.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError) as refused:
        load_config(ModelSource(str(tmp_path / "gpt2"), rope=SCALED["linear"]))
    assert str(refused.value) == Like("… model.rope scales rotary positions, and the model has none …")


def test_log_probabilities_token_by_token_add_up_to_the_row(base):
    model = load_base(ModelSource(str(base)), "float32", None, use_cpu=True).eval()
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]},
        {"input_ids": [9, 10], "labels": [-100, 10]},
    ]
    by_token, sums = token_logprobs_of_rows(model, rows), row_logprobs(model, rows)
    assert [math.fsum(row) for row in by_token] == pytest.approx(sums, abs=1e-5)
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6, 7, 8]])).logits[0].log_softmax(-1)
    assert by_token[0][:3] == pytest.approx([float(expected[n, t]) for n, t in enumerate((6, 7, 8))], abs=1e-5)
