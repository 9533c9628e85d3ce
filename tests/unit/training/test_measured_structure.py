"""What a model is, measured before its first step; what is not as declared stops the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.masking_utils import create_causal_mask
from transformers.models.mistral import modeling_mistral

import tiny
from ft.errors import UserError
from ft.families import prefix_lm
from ft.files import read_json
from ft.models.adapters import with_adapter
from ft.models.load import load_base
from ft.recipe import ModelSource
from ft.training.structure import measure_structure

WIDE = {"initializer_range": 0.2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def mistral(**config: Any) -> MistralForCausalLM:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**tiny.SMALL, **WIDE, **config))


def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**tiny.SMALL, **WIDE, **EXPERTS))


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**tiny.SMALL, **WIDE)),
        GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, **WIDE)),
        BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, **WIDE)),
        OPTForCausalLM(
            OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4)
        ),
        AutoModelForSequenceClassification.from_config(LlamaConfig(**tiny.SMALL, **WIDE, num_labels=1)),
    ],
    ids=["llama", "gpt2", "bloom", "opt", "reward model"],
)
def test_a_decoder_is_seen_to_be_causal(model):
    found = measure_structure(model, "recipe.yaml:3", 64)
    assert (found.both_ways, found.sees_future) == (False, False)
    assert "no token attends to later ones" in found.words
    assert sum(found.trained.values()) == sum(value.numel() for value in model.parameters())


def test_a_prefix_model_and_an_encoder_are_seen_to_read_both_ways(base, tmp_path):
    sources = [ModelSource(str(base), attention="prefix_lm"), ModelSource(str(tiny.t5(tmp_path)))]
    for source in sources:
        found = measure_structure(load_base(source, "float32", None, use_cpu=True), "recipe.yaml:3", 64)
        assert (found.both_ways, found.sees_future) == (True, False)


def test_a_prefix_mask_that_is_not_in_force_stops_the_run(base, monkeypatch):
    monkeypatch.setattr(prefix_lm, "prefix_mask", lambda config, ids, mask, lengths, dtype: mask)
    model = load_base(ModelSource(str(base), attention="prefix_lm"), "float32", None, use_cpu=True)
    with pytest.raises(UserError, match="declared to see itself both ways"):
        measure_structure(model, "recipe.yaml:3", 64)


def test_attention_that_sees_the_future_stops_the_run():
    def blind(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **given: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2), None

    AttentionInterface.register("blind", blind)
    model = LlamaForCausalLM(LlamaConfig(**tiny.SMALL, **WIDE))
    model.set_attn_implementation("blind")
    with pytest.raises(UserError, match=r"recipe.yaml:3: what the model writes sees the tokens behind it"):
        measure_structure(model, "recipe.yaml:3", 64)


@pytest.mark.parametrize("window", [4, 9])
def test_a_window_is_measured_to_the_token(window):
    found = measure_structure(mistral(sliding_window=window), "recipe.yaml:3", 64)
    assert found.window == window
    assert f"each attends to {window} tokens (window)" in found.words


def test_a_window_that_no_row_reaches_is_not_told_of():
    assert measure_structure(mistral(sliding_window=64), "recipe.yaml:3", 64).window is None


def test_a_window_that_is_not_in_force_stops_the_run(monkeypatch):
    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", create_causal_mask)
    with pytest.raises(UserError, match=r"sees more than 9 tokens, and sliding_window of the config is 8"):
        measure_structure(mistral(sliding_window=8), "recipe.yaml:3", 64)


def test_a_model_that_does_not_read_stops_the_run():
    model = LlamaForCausalLM(LlamaConfig(**tiny.SMALL, **WIDE))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(UserError, match="does not depend on what it has read"):
        measure_structure(model, "recipe.yaml:3", 64)


def test_experts_are_counted_in_the_bytes_that_they_take():
    model = mixtral().to(torch.bfloat16)
    found = measure_structure(model, "recipe.yaml:3", 64)
    held = sum(value.numel() for name, value in model.named_parameters() if "experts" in name)
    assert (found.experts, found.expert_bytes, found.expert_dtype) == ((4, 2), 2 * held, "bfloat16")
    assert found.router_trained
    adapted = with_adapter(mixtral(), None, {"r": 4, "target_modules": ["q_proj"]})
    found = measure_structure(adapted, "recipe.yaml:3", 64)
    assert not found.router_trained
    assert list(found.trained) == ["q_proj"]


def test_every_stage_that_trains_tells_and_writes_it(base, data, tmp_path):
    stage = tiny.trained(tmp_path, base, data, {"max_steps": 1})
    structure = read_json(stage.folder / "structure.json")
    assert structure["both_ways"] is False
    assert structure["words"].startswith("no token attends to later ones")
