"""Each term of the estimate against what torch, PEFT and bitsandbytes really hold, on small models on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes_seen import allocated, llama, saved_bytes

from ft.fit.activations import (
    TILE,
    VOCABULARY_TILE,
    Batch,
    ComputeMode,
    final_norm,
    head,
    key_value_cache,
    layer_forward,
    layer_saved,
    trained_forward,
)
from ft.fit.shapes import Linear, adapter_of, shape_of
from ft.fit.weights import model_weights, optimizer_states, quantised_bytes

ALL = {"r": 8, "target_modules": "all-linear"}
BLOCKS: dict[str, Any] = {
    "whole": None,
    "all": ALL,
    "two": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
    "dropped": {**ALL, "lora_dropout": 0.1},
}
ROWS, LENGTH = 2, 40


def trainable(config: Any, lora: dict[str, Any] | None, half: bool, attention: str = "sdpa", layers: int = 2) -> Any:
    """As ft holds it: what is trained in float32, what is frozen in the dtype it computes in."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config.num_hidden_layers = layers
    dtype = torch.bfloat16 if lora and half else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if lora:
        model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        model.enable_input_require_grads()
    return model.train()


def hidden(model: Any, half: bool, masked: bool = False) -> Any:
    """The last hidden states, computed as a Trainer does: under autocast in half precision."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, 30:] = 0
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        return inner.model(input_ids=ids, attention_mask=mask if masked else None, use_cache=False).last_hidden_state


def mode(lora: dict[str, Any] | None, half: bool, config: Any, **keys: Any) -> ComputeMode:
    adapter = adapter_of(shape_of(config, ""), lora, "recipe.yaml:9") if lora else None
    compute = 2 if half else 4
    return ComputeMode(compute, compute if lora else 4, adapter=adapter, cpu=True, **keys)


def of_a_layer(config: Any, lora: dict[str, Any] | None, half: bool, attention: str, masked: bool) -> int:
    """Bytes that one layer more makes a forward save."""
    found = []
    for layers in (1, 2):
        model = trainable(config, lora, half, attention, layers)
        found.append(saved_bytes(model, lambda model=model: hidden(model, half, masked)))
    return found[1] - found[0]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("attention", "masked"), [("sdpa", False), ("sdpa", True), ("eager", False)])
def test_a_layer_saves_for_its_backward_exactly_what_the_formula_says(block, half, attention, masked):
    config, lora = llama(), BLOCKS[block]
    told = layer_saved(shape_of(config, ""), Batch(ROWS, LENGTH, masked), mode(lora, half, config, attention=attention))
    assert told == of_a_layer(config, lora, half, attention, masked)


def family(name: str) -> Any:
    import transformers

    keys = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}
    head_dim = {} if name == "MixtralConfig" else {"head_dim": 16}
    return getattr(transformers, name)(**keys, num_key_value_heads=2, **head_dim)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("MistralConfig", 0.0),
        ("Qwen2Config", 0.001),
        ("Qwen3Config", 0.0),
        ("GemmaConfig", 0.003),
        ("MixtralConfig", 0.04),
    ],
)
@pytest.mark.parametrize("block", ["whole", "two"])
def test_layers_of_other_families_save_what_the_formula_says(name, error, block):
    config, lora = family(name), BLOCKS[block]
    told = layer_saved(shape_of(config, ""), Batch(ROWS, LENGTH), mode(lora, True, config))
    assert told == pytest.approx(of_a_layer(config, lora, True, "sdpa", False), rel=error)


@pytest.mark.parametrize("block", ["whole", "all"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_whole_forward_keeps_what_the_formula_says(block, checkpoint):
    config, lora = llama(), BLOCKS[block]
    model = trainable(config, lora, half=False, layers=6)
    if checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config.num_hidden_layers = 6
    shape, batch, how = shape_of(config, ""), Batch(ROWS, LENGTH), mode(lora, False, config, checkpoint=checkpoint)
    kept = trained_forward(shape, batch, how)[0] + final_norm(shape, batch, how)
    assert kept == pytest.approx(saved_bytes(model, lambda: hidden(model, half=False)), rel=0.02)


@pytest.mark.parametrize("block", ["whole", "all"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_allocators_peak_of_a_step_is_the_estimate(block, checkpoint):
    config, lora = llama(hidden_size=128, intermediate_size=384), BLOCKS[block]
    model = trainable(config, lora, half=False, layers=4)
    if checkpoint:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.zeros(4, 128, dtype=torch.long)
    inner = model.get_base_model() if lora else model

    def step() -> None:
        inner.model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()

    step()  # gradients are there from now on
    config.num_hidden_layers = 4
    kept, working = trained_forward(
        shape_of(config, ""), Batch(4, 128), mode(lora, False, config, checkpoint=checkpoint)
    )
    assert kept + working == pytest.approx(allocated(step), rel=0.05)


def quantised(config: Any, lora: dict[str, Any], layers: int, folder: Path) -> Any:
    """A base of bfloat16 and NF4 under float32 adapters, as a GPU's QLoRA."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config.num_hidden_layers = layers
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.bfloat16, quantization_config=options, device_map="cpu"
    )
    model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    model.enable_input_require_grads()
    return model.train()


@pytest.mark.parametrize("block", ["all", "two", "dropped"])
def test_under_a_quantised_matrix_neighbours_save_one_input(block, monkeypatch, tmp_path):
    """PEFT leaves the input of a quantised matrix as it is under autocast, and asks torch of CUDA's."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": enabled(device))
    config, lora, found = llama(), BLOCKS[block], []
    for layers in (1, 2):
        model = quantised(config, lora, layers, tmp_path / str(layers))
        found.append(saved_bytes(model, lambda model=model: hidden(model, half=True)))
    told = layer_saved(shape_of(config, ""), Batch(ROWS, LENGTH), mode(lora, True, config, unpacks=2))
    assert told == found[1] - found[0]


def test_a_step_of_lora_in_half_precision_holds_a_float32_copy_of_the_widest_input():
    config = llama(hidden_size=128, intermediate_size=384)
    model = trainable(config, ALL, half=True, layers=4)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, inner = torch.zeros(4, 512, dtype=torch.long), model.get_base_model()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            out = inner.model(input_ids=ids, use_cache=False).last_hidden_state
        out.float().sum().backward()

    step()  # gradients are there from now on
    config.num_hidden_layers = 4
    how = mode(ALL, True, config, checkpoint=True)
    kept, working = trained_forward(shape_of(config, ""), Batch(4, 512), how)
    assert kept + working == pytest.approx(allocated(step), rel=0.05)


def test_outside_of_autocast_adapters_answer_in_float32():
    config = llama(hidden_size=128, intermediate_size=512)
    model = trainable(config, ALL, half=True, layers=4)
    ids, inner = torch.zeros(4, 512, dtype=torch.long), model.get_base_model()

    def read() -> None:
        with torch.no_grad():
            inner.model(input_ids=ids, use_cache=False)

    read()
    how = mode(ALL, True, config, autocast=False)
    copied = 4 * 4 * 512 * config.intermediate_size  # a CPU copies bfloat16 to add float32 to it; a GPU does not
    told = layer_forward(shape_of(config, ""), Batch(4, 512), how) + copied
    assert told == pytest.approx(allocated(read), rel=0.05)


def test_the_head_makes_one_tile_of_logits_at_a_time(monkeypatch):
    from trl.kernels import chunked_logprob
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    for kernel in ("_forward_tile", "_backward_tile"):  # on a GPU these work in the tile; on a CPU they copy it
        monkeypatch.setattr(chunked_logprob, kernel, lambda *tensors, **flags: None)

    shape = shape_of(llama(vocab_size=VOCABULARY_TILE), "")
    states = torch.randn(256, 64, requires_grad=True)
    words, targets = torch.randn(VOCABULARY_TILE, 64), torch.zeros(256, dtype=torch.long)

    def loss() -> None:
        ChunkedLogProbFunction.apply(states, words, None, targets, 1.0, VOCABULARY_TILE)[0].sum().backward()

    loss()
    frozen = mode(ALL, False, llama())
    assert head(shape, 256, frozen, gradients=True) == pytest.approx(allocated(loss), rel=0.05)
    assert head(shape, 4 * TILE, frozen, gradients=False) < 2 * TILE * VOCABULARY_TILE * 4


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_weights_take_the_bytes_of_their_tensors(small, dtype, name):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM._from_config(llama(), dtype=dtype)
    assert model_weights(small, name, None) == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("double", [False, True])
def test_nf4_takes_the_bytes_of_bitsandbytes_tensors(double):
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(384, 128), quant_type="nf4", compress_statistics=double)
    held = [packed, state.absmax, state.code]
    if double:
        held += [state.state2.absmax, state.state2.code, state.offset]
    options = {"load_in_4bit": True, "bnb_4bit_use_double_quant": double}
    assert quantised_bytes(Linear("q_proj", 128, 384), options) == sum(tensor.nbytes for tensor in held)


def test_what_is_not_quantised_keeps_its_dtype(small):
    matrices = 2 * sum(linear.columns * linear.rows for linear in small.layer.linears)
    quantised = 2 * sum(quantised_bytes(linear, {"load_in_4bit": True}) for linear in small.layer.linears)
    assert model_weights(small, "bfloat16", {"load_in_4bit": True}) == 2 * (small.parameters - matrices) + quantised


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adamw_torch_fused", lambda p: torch.optim.AdamW(p)),
        ("sgd", lambda p: torch.optim.SGD(p)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p)),
        ("adamw_8bit", lambda p: _bnb().AdamW8bit(p)),
        ("adafactor", lambda p: _adafactor(p)),
    ],
)
def test_optimizer_states_take_the_bytes_of_their_tensors(name, make):
    parameter = torch.nn.Parameter(torch.randn(256, 128))
    optimizer = make([parameter])
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    held = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
    shared = name == "adamw_8bit"  # its two tables of 256 numbers, by all tensors; a count of steps is a number
    real = sum(value.nbytes for value in held if value.numel() > 1 and not (shared and value.shape == (256,)))
    told = optimizer_states(name, parameter.numel(), (Linear("q_proj", 128, 256),), "recipe.yaml:9")
    assert told == real


def _bnb() -> Any:
    import bitsandbytes

    return bitsandbytes.optim


def _adafactor(parameters: Any) -> Any:
    from transformers import Adafactor

    return Adafactor(parameters, lr=1e-3, relative_step=False)


@pytest.mark.parametrize("window", [None, 8])
def test_the_cache_takes_the_bytes_that_generating_fills(window):
    from transformers import MistralConfig, MistralForCausalLM

    keys = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
    config = MistralConfig(**keys, num_key_value_heads=2, num_hidden_layers=3, sliding_window=window, eos_token_id=None)
    ids = torch.zeros(2, 20, dtype=torch.long)
    told = MistralForCausalLM(config).generate(
        ids, max_new_tokens=13, do_sample=False, return_dict_in_generate=True, pad_token_id=0
    )
    layers = told.past_key_values.layers
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    if window:
        assert layers[0].keys.shape[2] == window - 1  # the newest token is not kept before it is read
        window_kept = key_value_cache(shape_of(config, ""), 2, 33, 4)
        assert window_kept == real * window // (window - 1)
    else:
        assert key_value_cache(shape_of(config, ""), 2, 20 + 13 - 1, 4) == real
