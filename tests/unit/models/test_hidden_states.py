"""Selected places are what they are among all, and the last layer's MLP computes no others."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

import tiny
from ft.models.hidden_states import inner_of, let_select

SLOTS = torch.tensor([7, 3, 3, 12, 19, 7])  # in no order, and some twice, as two answers to one prompt have them


def model_of(kind=LlamaForCausalLM, config=LlamaConfig, **more):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(kind(config(**tiny.SMALL, **more)), lora).train()


def learnt(model, ids, pick):
    """Hidden states, and the gradients of a sum that weighs each of them differently."""
    states = pick(inner_of(model).base_model, ids)
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return states.detach(), gradients


def of_all(backbone, ids):
    return backbone(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[SLOTS][None]


def of_some(backbone, ids):
    return backbone(input_ids=ids, use_cache=False, select=SLOTS).last_hidden_state


@pytest.mark.parametrize("kind", ["llama", "checkpointing", "mixture of experts"])
def test_selected_states_and_their_gradients_are_those_among_all(kind):
    model = model_of(MixtralForCausalLM, MixtralConfig) if kind.startswith("mix") else model_of()
    if kind == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inner_of(model).enable_input_require_grads()
    ids = torch.randint(97, (2, 10), generator=torch.Generator().manual_seed(1))
    expected, gradients = learnt(model, ids, of_all)
    let_select(inner_of(model).base_model)
    states, found = learnt(model, ids, of_some)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-4)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_the_last_mlp_sees_each_selected_place_once_and_others_all():
    model, seen = model_of(), []
    backbone = inner_of(model).base_model
    let_select(backbone)
    for layer in backbone.layers:
        layer.mlp.up_proj.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[:2])))
    ids = torch.zeros(2, 10, dtype=torch.long)
    of_some(backbone, ids)
    of_all(backbone, ids)
    assert seen == [(2, 10), (1, 4), (2, 10), (2, 10)]


def test_an_error_in_between_leaves_the_mlp_whole():
    model = model_of()
    backbone, ids = inner_of(model).base_model, torch.zeros(2, 10, dtype=torch.long)
    expected = of_all(backbone, ids)
    let_select(backbone)
    with pytest.raises(IndexError):
        backbone(input_ids=ids, use_cache=False, select=torch.tensor([99]))
    torch.testing.assert_close(of_all(backbone, ids), expected, atol=0, rtol=0)
