"""Blocks are seen as each architecture builds them, and every parameter is counted in one module."""

from __future__ import annotations

from typing import Any

import pytest
from shapes_seen import llama

from ft.fit.inspection import Inspection, Sublayer, inspect_model
from ft.fit.shapes import known_config, shape_of

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
BLOOM = {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96}
PRE_NORM = (Sublayer("attention", norm_before=True), Sublayer("feed-forward", norm_before=True))


def inspection(class_name: str, **keys: Any) -> Inspection:
    import transformers

    return inspect_model(shape_of(getattr(transformers, class_name)(**keys), "its config"))


ARCHITECTURES: dict[str, tuple[str, dict[str, Any], tuple[Sublayer, ...]]] = {
    "norms before": ("GPT2Config", GPT2, PRE_NORM),
    "two matrices without a module": ("OPTConfig", {**SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64}, PRE_NORM),
    "norms of the sum": (
        "OPTConfig",
        {**SIZES, "ffn_dim": 128, "word_embed_proj_dim": 64, "do_layer_norm_before": False},
        (Sublayer("attention", norm_of_sum=True), Sublayer("feed-forward", norm_of_sum=True)),
    ),
    "residuals added inside": (
        "BloomConfig",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 96},
        PRE_NORM,
    ),
    "norms behind": (
        "Olmo2Config",
        {**SIZES, "intermediate_size": 128, "pad_token_id": 0},
        (Sublayer("attention", norm_after=True), Sublayer("feed-forward", norm_after=True)),
    ),
    "both": (
        "Gemma3TextConfig",
        {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 16},
        (
            Sublayer("attention", norm_before=True, norm_after=True),
            Sublayer("feed-forward", norm_before=True, norm_after=True),
        ),
    ),
    "side by side, two norms": (
        "GPTNeoXConfig",
        {**SIZES, "intermediate_size": 128},
        (Sublayer("attention", norm_before=True), Sublayer("feed-forward", norm_before=True, parallel=True)),
    ),
    "side by side, one norm": (
        "GPTJConfig",
        {**GPT2, "rotary_dim": 8},
        (Sublayer("attention", norm_before=True), Sublayer("feed-forward", parallel=True)),
    ),
    "experts": (
        "MixtralConfig",
        {**SIZES, "intermediate_size": 128, "num_key_value_heads": 2, "num_local_experts": 4},
        (Sublayer("attention", norm_before=True), Sublayer("experts", norm_before=True)),
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_of_a_block_are_seen_in_their_order(name):
    class_name, keys, sublayers = ARCHITECTURES[name]
    found = inspection(class_name, **keys)
    assert [(one.name, one.count, one.sublayers) for one in found.stacks] == [("decoder", 2, sublayers)]
    assert sum(one.parameters for one in found.modules) == found.shape.parameters


POSITIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "learned": ("GPT2Config", {**GPT2, "n_positions": 32}, {"kind": "learned", "rows": 32}),
    "ALiBi": ("BloomConfig", BLOOM, {"kind": "ALiBi"}),
    "rotary": (
        "LlamaConfig",
        {**SIZES, "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}},
        {"kind": "rotary", "theta": 5000.0, "scaling": "linear", "factor": 2.0},
    ),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_named_with_their_numbers(name):
    class_name, keys, positions = POSITIONS[name]
    assert inspection(class_name, **keys).positions == positions


def test_of_experts_those_a_token_goes_through_are_at_work():
    found = inspect_model(shape_of(known_config("mistralai/Mixtral-8x7B-v0.1"), ""))
    assert (found.experts, found.shape.experts_each, found.active) == (8, 2, 12_879_925_248)
    assert found.by_role["experts"] == 32 * 8 * 3 * 4096 * 14336
    assert found.by_role["router"] == 32 * 8 * 4096


def test_bytes_are_those_of_the_fit_plan():
    found = inspect_model(shape_of(llama(), ""))
    assert found.weight_bytes["float32"] == 2 * found.weight_bytes["bfloat16"] == 4 * found.shape.parameters
    assert found.weight_bytes["4 bits"] < found.weight_bytes["8 bits"] < found.weight_bytes["bfloat16"]
    assert found.cache_bytes(10) == 10 * 2 * 2 * (2 * 16) * 2  # tokens, keys and values, layers, features, bytes


def test_an_encoder_decoder_has_two_stacks_and_its_decoder_reads_the_encoder():
    found = inspection("T5Config", d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4, vocab_size=96)
    attention, feed_forward = PRE_NORM
    cross_attention = Sublayer("cross-attention", norm_before=True)
    assert {one.name: (one.count, one.sublayers) for one in found.stacks} == {
        "encoder": (2, (attention, feed_forward)),
        "decoder": (2, (attention, cross_attention, feed_forward)),
    }
    assert (found.norm, found.positions) == ("RMSNorm", {"kind": "relative bias", "buckets": 32})
    assert sum(one.parameters for one in found.modules) == found.shape.parameters
    assert found.shape.head_dim == 16
