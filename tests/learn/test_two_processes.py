"""Two processes train what one trains with twice the accumulation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

import tiny
from ft.recipe import Verdicts, read
from ft.stages import STAGES
from ft.trainers.callbacks import read_metrics

LAUNCH = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the processes would take GPUs")
def test_two_processes_end_with_the_weights_of_one(tmp_path, base, data):
    alone = tiny.trained(tmp_path, base, data, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})
    file = tiny.recipe(tmp_path, [tiny.sft(data, {"per_device_train_batch_size": 4})], model=str(base))
    runs = tmp_path / "runs"
    read(file, STAGES, (), Verdicts(runs / ".cache" / "checked.json"))
    made = tiny.in_two_processes(file, runs)
    both = tiny.planned(file, runs).stage("sft")
    assert both.folder != alone.folder
    assert both.done["processes"] == 2
    one, two = tiny.weights(alone.folder), tiny.weights(both.folder)
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5
    losses = [line for line in read_metrics(both.folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 3, 4]  # the second process wrote nothing
    assert both.done["numbers"]["tokens"] == alone.done["numbers"]["tokens"]
    assert made.stderr.count("sft: step 4/4") == 1


@pytest.mark.parametrize("name", sorted(file.name for file in LAUNCH.glob("*.yaml")))
def test_every_shipped_config_is_read_by_accelerate(name):
    config = load_config_from_file(str(LAUNCH / name))  # refuses keys it does not know
    assert config.num_processes >= 2


def test_there_is_a_config_for_each_way():
    assert sorted(file.stem for file in LAUNCH.glob("*.yaml")) == ["cpu-2", "ddp", "fsdp", "fsdp-qlora", "zero3"]
