"""Parameters are counted exactly: models as published, and adapters as PEFT makes them."""

from __future__ import annotations

from typing import Any

import pytest
from shapes_seen import llama

from ft.fit.known import KNOWN
from ft.fit.shapes import Adapter, adapter_of, build_on_meta, known_config, shape_of

PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "openai-community/gpt2": 124_439_808,
    "facebook/opt-1.3b": 1_315_758_080,
    "bigscience/bloom-560m": 559_214_592,
    "google/flan-t5-base": 247_577_856 - 32_128 * 768,  # transformers' config ties its output matrix always
    "google/gemma-3-4b-it": 3_880_263_168,  # its decoder, which is what a shape is of
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_known_model_has_its_published_number_of_parameters(path):
    assert shape_of(known_config(path), "built-in sizes").parameters == PUBLISHED[path]


def test_every_known_shape_builds():
    assert all(known_config(path).get_text_config().hidden_size for path in KNOWN)


def test_a_gpt3_shape_has_the_parameters_of_its_paper():
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=50257, n_positions=2048, n_embd=12288, n_layer=96, n_head=96)
    shape = shape_of(config, "its config")
    assert shape.parameters == 174_604_259_328
    assert sum(linear.columns * linear.rows for linear in shape.layer.linears) * 96 == 173_946_175_488  # 12 L d^2


def test_t5_is_counted_with_both_its_halves():
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config())  # the shape of t5-small
    assert sum(parameter.numel() for parameter in model.parameters()) == 60_506_624


def test_a_reward_model_has_a_row_for_its_head():
    config = llama()
    answers, scores = shape_of(config, ""), shape_of(config, "", scores=True)
    assert answers.parameters - scores.parameters == 512 * 64 - 64


def test_tied_embeddings_count_once():
    apart, tied = (shape_of(llama(tie_word_embeddings=tie), "") for tie in (False, True))
    assert (apart.parameters - tied.parameters, tied.head) == (512 * 64, 0)


BLOCKS: dict[str, dict[str, Any]] = {
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "names": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
    "dropout": {"r": 8, "target_modules": ["down_proj"], "lora_dropout": 0.1},
    "regex": {"r": 8, "target_modules": r".*layers\.1\..*_proj"},
    "ranks": {"r": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.2.self_attn.q_proj": 32}},
    "layers": {"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
    "whole modules": {"r": 8, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
    "dora": {"r": 8, "target_modules": "all-linear", "use_dora": True},
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("scores", [False, True])
def test_an_adapter_trains_what_peft_trains(name, scores):
    config, lora = llama(num_hidden_layers=3), BLOCKS[name]
    if scores and "modules_to_save" in lora:
        lora = {**lora, "modules_to_save": ["input_layernorm"]}
    found = adapter_of(shape_of(config, "", scores), lora, "recipe.yaml:9", scores)
    assert found.trained == _by_peft(config, lora, scores)


def _by_peft(config: Any, lora: dict[str, Any], scores: bool) -> int:
    from peft import LoraConfig, get_peft_model

    task = "SEQ_CLS" if scores else "CAUSAL_LM"
    model = get_peft_model(build_on_meta(config, scores), LoraConfig(**lora, task_type=task), low_cpu_mem_usage=True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_adapters_on_experts_are_counted_as_peft_makes_them():
    from transformers import MixtralConfig

    keys = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_local_experts": 4}
    config = MixtralConfig(**keys, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    shape = shape_of(config, "")
    assert shape.layer.experts == 4 * 3 * 64 * 128
    lora = {"r": 4, "target_modules": "all-linear"}
    assert adapter_of(shape, lora, "recipe.yaml:9").trained == _by_peft(config, lora, scores=False)


def test_the_ranks_name_the_matrices_that_carry_an_adapter(small):
    found = adapter_of(small, {"r": 4, "target_modules": ["q_proj", "down_proj"]}, "recipe.yaml:9")
    assert found == Adapter(2 * 4 * (64 + 64 + 192 + 64), 0, {"self_attn.q_proj": 4, "mlp.down_proj": 4}, 0.0)
