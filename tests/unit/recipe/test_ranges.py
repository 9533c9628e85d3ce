"""Numbers that no run could use are refused where they stand, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.formats.messages import BadRow
from ft.errors import UserError
from ft.rewards import answer, check_columns

NAN, INF = float("nan"), float("inf")
PPO = {"max_completion_length": 8, "per_device_train_batch_size": 8, "max_steps": 1}


def refusal(folder: Path, base: Path, data: Path, stage: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        tiny.checked(tiny.recipe(folder, [{"data": [{"path": str(data)}], **stage}], model=str(base)))
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("learning_rate", -1.0, "Write 0 or more."),
        *[("learning_rate", value, "Write a finite number.") for value in (NAN, INF, 1e39)],
        *[(key, NAN, "Write a finite number.") for key in ("weight_decay", "max_grad_norm", "num_train_epochs")],
        ("num_train_epochs", INF, "Write a finite number."),  # which is how YAML reads 1e400
        *[(key, 10**26, "Write a number up to") for key in ("max_length", "per_device_train_batch_size")],
        ("warmup_steps", -5, "Write 0 or more."),
        ("label_smoothing_factor", 3, "Write 1 or less."),
    ],
)
def test_a_number_of_a_trainer_is_one_that_it_can_use(key, value, fix, tmp_path, base, data):
    told = refusal(tmp_path, base, data, {"kind": "sft", "train": {**tiny.TRAIN, key: value}})
    assert told.startswith(f"{tmp_path / 'tiny.yaml'}:")
    assert f"train.{key} is " in told
    assert fix in told


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        ("lora", "lora_alpha", 0),
        ("lora", "lora_alpha", -1),
        ("lora", "lora_dropout", -0.1),
        ("lora", "lora_dropout", 2),
        ("train", "max_completion_length", 0),
        ("train", "max_completion_length", -1),
        ("train", "generation_batch_size", 0),
        ("train", "beta", NAN),
        ("guard", "kl", NAN),
        ("reward", "unfinished", NAN),
    ],
)
def test_so_is_one_of_every_block(block, key, value, tmp_path, base, data):
    stage = {"kind": "ppo", "train": PPO, "lora": tiny.LORA, "reward": {"rewards": {"answer": 1.0}}}
    stage[block] = {**stage.get(block, {}), key: value}
    assert f"{block}.{key} is " in refusal(tmp_path, base, data, stage)


def test_a_default_below_zero_stays_allowed(tmp_path, base, data):
    train = {**tiny.TRAIN, "max_steps": -1, "num_train_epochs": 1}
    tiny.checked(tiny.recipe(tmp_path, [tiny.sft(data, train)], model=str(base)))


@pytest.mark.parametrize("value", [NAN, INF, True])
def test_a_requirement_is_a_finite_number(value, tmp_path, base, data):
    stage = {"kind": "sft", "train": tiny.TRAIN, "require": {"accuracy": value}}
    assert "require.accuracy is " in refusal(tmp_path, base, data, stage)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("linear", {"num_cycles": 2}, "num_cycles"),
        ("cosine_with_min_lr", {"num_cycles": 0.5}, "min_lr"),
        ("warmup_stable_decay", {"min_lr_ratio": 0.1}, "num_decay_steps"),
    ],
)
def test_what_does_not_fit_a_scheduler_is_refused(name, options, words, tmp_path, base, data):
    train = {**tiny.TRAIN, "lr_scheduler_type": name, "lr_scheduler_kwargs": options}
    told = refusal(tmp_path, base, data, {"kind": "sft", "train": train})
    assert f"lr_scheduler_kwargs do not fit the scheduler '{name}'" in told
    assert words in told


def test_what_fits_a_scheduler_is_taken(tmp_path, base, data):
    train = {**tiny.TRAIN, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.001}}
    tiny.checked(tiny.recipe(tmp_path, [tiny.sft(data, train)], model=str(base)))


def test_a_key_inside_a_nested_configuration_is_one_of_its_class(tmp_path, base, data):
    architecture = {"hidden_size": 64, "rope_parameters": {"rope_type": "default", "rope_thetta": 1e4}}
    told = refusal(tmp_path, base, data, {"kind": "scratch", "architecture": architecture, "tokenizer": {}})
    assert "architecture.rope_parameters has no key 'rope_thetta'. Did you mean 'rope_theta'?" in told


# What a reward looks for


def test_an_answer_that_is_a_number_is_read_as_its_digits():
    completions = [[{"role": "assistant", "content": text}] for text in ("it is 4.", "it is 14.", "four")]
    check_columns(["answer"], {"answer": 4})
    assert answer([], completions, answer=[4, [4, "five"], [4, "four"]]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("value", ["", "  ", [], ["red", ""], 0.5, True, {"text": "red"}])
def test_an_answer_that_cannot_be_looked_for_is_a_bad_row(value):
    with pytest.raises(BadRow, match="the reward 'answer' cannot look for what the column 'answer' holds"):
        check_columns(["answer"], {"answer": value})
