"""A batch without its padding gives what the padded batch gives: hidden states, and gradients."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import tiny
from ft.models.hidden_states import inner_of, let_select
from ft.training.padding_free import leave_padding_out

LENGTHS = (5, 12, 1, 9)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")


def model_of(kind=LlamaForCausalLM, config=LlamaConfig, lora=False, **more):
    torch.manual_seed(0)
    model = kind(config(**tiny.SMALL, **more))
    if lora:
        model = get_peft_model(model, LORA)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    return model.train()


def batch(lengths=LENGTHS):
    ids = torch.randint(1, 97, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "use_cache": False}


def hidden(model, inputs, **more):
    return inner_of(model).base_model(**inputs, **more).last_hidden_state


def learnt(model, inputs):
    """Hidden states of the real tokens, and the gradients of a sum that weighs each of them differently."""
    states = hidden(model, inputs)[inputs["attention_mask"].bool()]
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return states.detach(), {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }


def shapes_read(model):
    """The shapes (B, T) of the ids that go into the model from now on."""
    shapes = []
    inner_of(model).get_input_embeddings().register_forward_pre_hook(lambda _, ids: shapes.append(tuple(ids[0].shape)))
    return shapes


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_hidden_states_and_gradients_are_those_of_the_padded_batch(lora, checkpointing):
    model, inputs = model_of(lora=lora), batch()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inner_of(model).enable_input_require_grads()
    padded, gradients = learnt(model, inputs)
    assert leave_padding_out(model) == ""
    shapes = shapes_read(model)
    states, found = learnt(model, inputs)
    assert shapes == [(1, sum(LENGTHS))], "only real tokens went through the layers"
    torch.testing.assert_close(states, padded, atol=1e-5, rtol=1e-4)
    assert found.keys() == gradients.keys()
    assert len(found) > 5
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_no_row_sees_another():
    model = model_of().eval()
    leave_padding_out(model)
    inputs = batch()
    before = hidden(model, inputs)
    inputs["input_ids"][0, :5] = 7
    after = hidden(model, inputs)
    torch.testing.assert_close(after[1:], before[1:], atol=0, rtol=0)
    assert not torch.allclose(after[0, :5], before[0, :5])


@pytest.mark.parametrize("first", ["select", "ragged"])
def test_selected_places_are_those_of_the_padded_batch(first):
    model, inputs, slots = model_of().eval(), batch(), torch.tensor([0, 4, 13, 44])
    expected = hidden(model, inputs).flatten(0, 1)[slots][None]
    backbone = inner_of(model).base_model
    for step in (
        (let_select, lambda _: leave_padding_out(model))
        if first == "select"
        else (
            lambda _: leave_padding_out(model),
            let_select,
        )
    ):
        step(backbone)
    torch.testing.assert_close(hidden(model, inputs, select=slots), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "inputs",
    [
        batch((6, 6)),
        {**batch(), "attention_mask": batch()["attention_mask"].flip(1), "input_ids": batch()["input_ids"].flip(1)},
        {**batch(), "position_ids": torch.arange(12).expand(4, -1)},
        {**batch(), "use_cache": True},
    ],
    ids=["nothing padded", "padded on the left", "positions given", "with a cache"],
)
def test_what_is_no_right_padded_batch_stays_as_it_is(inputs):
    model = model_of().eval()
    expected = hidden(model, inputs)
    leave_padding_out(model)
    shapes = shapes_read(model)
    torch.testing.assert_close(hidden(model, inputs), expected, atol=0, rtol=0)
    assert shapes == [tuple(inputs["input_ids"].shape)]


def test_rows_longer_than_a_sliding_window_stay_padded():
    model = model_of(MistralForCausalLM, MistralConfig, sliding_window=30).eval()
    assert leave_padding_out(model) == ""
    shapes = shapes_read(model)
    hidden(model, batch((20, 30)))
    hidden(model, batch((20, 31)))
    assert shapes == [(1, 50), (2, 31)]


def test_a_model_whose_layers_mix_rows_in_a_row_refuses():
    model = model_of(Lfm2ForCausalLM, Lfm2Config, layer_types=["conv", "full_attention"]).eval()
    expected = hidden(model, batch())
    assert "differ" in leave_padding_out(model)
    torch.testing.assert_close(hidden(model, batch()), expected, atol=0, rtol=0)


def test_another_attention_refuses():
    model = model_of()
    model.set_attn_implementation("eager")
    assert "SDPA" in leave_padding_out(model)
