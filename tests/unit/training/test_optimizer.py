"""An optimizer that its library cannot make is refused before the first step, in words."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import TrainingArguments

import tiny
from ft.errors import UserError
from ft.training.optimizer import try_optimizer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adam_beta1": 2.0}, "beta"),
        ({"optim": "lomo"}, "lomo"),
        ({"optim": "galore_adamw"}, "galore"),
    ],
)
def test_what_the_library_refuses_is_told_with_its_place(options, words, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **options)
    with pytest.raises(UserError) as error:
        try_optimizer(args, nn.Linear(2, 2), "recipe.yaml:7")
    assert str(error.value).startswith("recipe.yaml:7: ")
    assert words in str(error.value).lower()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_what_it_takes_passes(optim, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, optim=optim)
    try_optimizer(args, nn.Linear(2, 2), "recipe.yaml:7")


def test_a_stage_is_refused_with_its_line(tmp_path, base, data):
    recipe = tiny.recipe(tmp_path, [tiny.sft(data, {**tiny.TRAIN, "adam_beta1": 2.0})], model=str(base))
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+: train: the optimizer 'adamw_torch_fused' cannot be made"):
        tiny.trainer(tiny.planned(recipe, tmp_path / "runs"), "sft")
