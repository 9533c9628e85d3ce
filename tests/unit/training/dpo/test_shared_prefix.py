"""A pair in one row gives what two rows give: log-probabilities, scores, gradients."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
)
from trl.trainer import add_fused_lm_head

import tiny
from ft.training.dpo.shared_prefix import layout, objection, pack, share_logps, share_scores

METRICS = ("log_probs", "entropy", "mean_logits", "is_top1")

# prompt, chosen, rejected: unequal lengths, a common answer start, one answer the beginning of the other
PAIRS = [
    (list(range(1, 21)), [30, 31, 32], [40, 41, 42, 43, 44]),
    ([5, 6, 7, 8, 9, 10, 11, 12], [50, 51, 52, 53], [50, 51, 60]),
    ([70, 71, 72, 73, 74, 75], [80, 81, 82], [80, 81, 82, 83]),
]


def batch_of(pairs):
    """As TRL's collator makes it: chosen rows, then rejected ones, padded on the right; labels on the answers."""
    rows = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, real, labels = (torch.full((len(rows), length), empty) for empty in (0, 0, -100))
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        real[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": real, "labels": labels}


def causal(config=None, kind=LlamaForCausalLM, lora=False, checkpointing=False, attention="sdpa"):
    torch.manual_seed(0)
    model = kind(config or LlamaConfig(**tiny.SMALL))
    model.set_attn_implementation(attention)
    add_fused_lm_head(model, outputs=METRICS)
    return finished(model, share_logps, lora and "CAUSAL_LM", checkpointing)


def scorer(lora=False, checkpointing=False, attention="sdpa"):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**tiny.SMALL, num_labels=1))
    model.set_attn_implementation(attention)
    return finished(model, share_scores, lora and "SEQ_CLS", checkpointing)


def finished(model, share, task, checkpointing):
    if task:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type=task))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    share(model)
    return model.train()


def logps(model, batch, pairs):
    return model(**batch, fused_lm_head=True, use_cache=False, pairs=pairs)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def preference(values):
    chosen, rejected = values.chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def rows_computed(model):
    """Shapes (B, T) of what enters the model from now on."""
    shapes = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[:2])))
    return shapes


def test_the_rejected_answer_stands_after_the_chosen_one_and_continues_the_common_beginning():
    ids = torch.tensor([[1, 2, 3, 4, 0], [1, 2, 3, 5, 6]])
    rows = layout(ids, (ids != 0).long(), width=32)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert rows.slots.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 4, 5]]
    assert rows.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]


def test_two_pairs_in_one_row_do_not_see_each_other():
    ids = torch.tensor([[1, 2, 3], [1, 4, 0], [1, 5, 0], [1, 6, 0]])  # pairs 1, 2-3|5 and 1, 4|6
    rows = layout(ids, (ids != 0).long(), width=1_000_000)
    assert rows.input_ids.tolist() == [[1, 2, 3, 5, 1, 4, 6]]
    assert rows.mask[0, 0, 4:, :4].any().item() is False


def test_empty_slots_see_something():
    ids = torch.tensor([[1, 2, 3, 4], [1, 5, 10, 0], [1, 6, 7, 8], [1, 9, 11, 0]])
    rows = layout(ids, (ids != 0).long(), width=1)
    assert rows.input_ids.tolist() == [[1, 2, 3, 4, 6, 7, 8], [1, 5, 10, 9, 11, 0, 0]]
    assert rows.mask.any(-1).all().item() is True


def test_short_pairs_share_a_row_as_long_as_the_longest():
    assert pack([10, 6, 4], width=1_000) == ([0, 1, 1], [0, 0, 6], 2, 10)


def test_equal_pairs_get_a_row_each():
    assert pack([8, 8, 8], width=1_000)[2:] == (3, 8)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_log_probabilities_and_their_gradients_are_those_of_separate_rows(lora, checkpointing, attention):
    model, batch = causal(lora=lora, checkpointing=checkpointing, attention=attention), batch_of(PAIRS)
    apart = logps(model, batch, pairs=False)
    expected = gradients(model, preference(apart.log_probs.sum(1)))
    shared = logps(model, batch, pairs=True)
    found = gradients(model, preference(shared.log_probs.sum(1)))
    for name in METRICS:
        torch.testing.assert_close(shared[name][apart.label_mask], apart[name][apart.label_mask], atol=1e-5, rtol=0)
    assert shared.label_mask.equal(apart.label_mask)
    assert shared.log_probs[~apart.label_mask].abs().sum() == 0
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_shared_scores_and_their_gradients_are_those_of_separate_rows(lora, checkpointing, attention):
    model, batch = scorer(lora, checkpointing, attention), batch_of(PAIRS)
    del batch["labels"]
    apart = model(**batch, use_cache=False).logits
    expected = gradients(model, preference(apart))
    shared = model(**batch, use_cache=False, margin=torch.ones(3), pairs=True).logits
    found = gradients(model, preference(shared))
    torch.testing.assert_close(shared, apart, atol=1e-5, rtol=0)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=0, msg=name)


def test_a_prompt_is_computed_once():
    model = causal()
    shapes = rows_computed(model)
    logps(model, batch_of([PAIRS[0]]), pairs=True)
    assert shapes == [(1, 28)]  # 20 of the prompt, 3 and 5 of the answers


def test_the_head_sees_only_tokens_that_count():
    model = causal()
    heads = []
    model.model.register_forward_hook(lambda module, inputs, output: heads.append(output.last_hidden_state.shape[1]))
    logps(model, batch_of([PAIRS[0]]), pairs=True)
    assert heads == [8]


def test_pairs_with_nothing_in_common_stay_in_rows_of_their_own():
    model, batch = causal(), batch_of([(list(range(1, 4)), [30] * 20, [40] * 20)])
    batch["input_ids"][1, 0] = 90
    shapes = rows_computed(model)
    logps(model, batch, pairs=True)
    assert shapes == [(2, 23)]


def test_rows_longer_than_a_sliding_window_stay_apart():
    model = causal(MistralConfig(**tiny.SMALL, sliding_window=16), MistralForCausalLM)
    shapes = rows_computed(model)
    logps(model, batch_of([PAIRS[0]]), pairs=True)
    logps(model, batch_of([PAIRS[1]]), pairs=True)
    assert shapes == [(2, 25), (1, 13)]


def test_an_ordinary_call_is_left_as_it_was():
    model = causal()
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 97)


def test_a_proven_model_has_no_objection():
    assert objection(causal()) is None
    assert objection(causal(lora=True, attention="eager")) is None
    assert objection(scorer()) is None
    assert objection(causal().to(torch.bfloat16)) is None


def test_the_proof_leaves_the_model_in_training_mode():
    model = causal()
    objection(model)
    assert model.training


def rounding_by_shape(model, size=2e-5):
    """The model as kernels of a GPU compute it, which round by the shape of what they are given."""

    def hook(module, inputs, output):
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(output.numel()))
        return output + (size * noise).to(output.dtype)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(hook)
    return model


def test_rounding_that_any_other_batch_shows_too_is_no_objection():
    deep = LlamaConfig(**{**tiny.SMALL, "num_hidden_layers": 48})
    assert objection(rounding_by_shape(causal(deep).to(torch.bfloat16))) is None
    mixing = Lfm2Config(**tiny.SMALL, layer_types=["conv", "full_attention"])
    assert "change" in objection(rounding_by_shape(causal(mixing, Lfm2ForCausalLM).to(torch.bfloat16)))


def test_attention_without_masks_is_an_objection():
    model = causal()
    model.config._attn_implementation = "flash_attention_2"
    assert objection(model) == (
        "attention 'flash_attention_2' takes no mask that keeps two answers apart (sdpa and eager do)"
    )


def test_layers_that_read_the_row_in_order_are_an_objection():
    config = Lfm2Config(**tiny.SMALL, layer_types=["conv", "full_attention"])
    assert "with the chosen one" in objection(causal(config, Lfm2ForCausalLM))
    assert "with the chosen one" in objection(causal(config, Lfm2ForCausalLM).to(torch.bfloat16))


def test_lost_positions_are_an_objection():
    model = causal()
    model.base_model.rotary_emb.register_forward_pre_hook(
        lambda module, args, given: (
            args,
            {**given, "position_ids": torch.arange(given["position_ids"].shape[1])[None]},
        ),
        with_kwargs=True,
    )
    assert "hidden states differ" in objection(model)
