"""A model whose packed rows see each other is not trained."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

import tiny
from ft.errors import UserError
from ft.models.load import load_base
from ft.recipe import ModelSource
from ft.training.packing import refuse_leaks

COLLATE = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)


class Forgetful(LlamaForCausalLM):
    """Takes position_ids and does not use them, as an attention kernel without varlen does."""

    def forward(self, input_ids, position_ids=None, **kwargs):
        return super().forward(input_ids, **kwargs)


class Unmasked(LlamaForCausalLM):
    """Knows the positions and masks like one long row."""

    def forward(self, input_ids, position_ids=None, **kwargs):
        whole = torch.ones(1, 1, input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
        return super().forward(input_ids, position_ids=position_ids, attention_mask=whole, **kwargs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_minds_positions_passes(attention, dtype, base):
    model = AutoModelForCausalLM.from_pretrained(str(base), attn_implementation=attention, dtype=dtype)
    refuse_leaks(model, COLLATE, "r.yaml:3")


def test_8bit_weights_pass_whose_outliers_are_those_of_the_whole_batch(base):
    model = load_base(ModelSource(str(base)), "float32", {"load_in_8bit": True}, use_cpu=True)
    for layer in model.model.layers:
        layer.input_layernorm.weight.data *= 3  # some features pass 6.0, where LLM.int8 takes their columns out
    refuse_leaks(model, COLLATE, "r.yaml:3")


@pytest.mark.parametrize("leaky", [Forgetful, Unmasked])
@pytest.mark.parametrize("spread", [0.002, 0.08])
def test_attention_that_does_not_is_refused(leaky, spread):
    torch.manual_seed(0)
    words = tiny.tokenizer()
    config = tiny.config(words)
    config.initializer_range = spread  # an untrained model's rows hardly look at what stands before
    with pytest.raises(UserError, match=r"^r\.yaml:3: packed rows see each other with attention 'sdpa' \(logits move"):
        refuse_leaks(leaky(config), COLLATE, "r.yaml:3")


def test_the_model_is_left_in_the_mode_it_was_in(base):
    model = AutoModelForCausalLM.from_pretrained(str(base)).train()
    refuse_leaks(model, COLLATE, "r.yaml:3")
    assert model.training


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("wrapped", "rows packed end to end see each other, and are cut where a packed row ends"),
        ("bfd_split", "it cuts rows, and the second half of an answer is trained without its question"),
    ],
)
def test_packing_that_cuts_rows_is_refused_in_the_recipe(strategy, reason, tmp_path, base, data):
    file = tiny.recipe(tmp_path, [tiny.sft(data, {"packing_strategy": strategy})], model=str(base))
    with pytest.raises(UserError) as refused:
        tiny.checked(file)
    problem = f"{file}:17: train.packing_strategy '{strategy}' is refused: {reason}. Remove packing_strategy."
    assert str(refused.value) == problem
