"""A policy that learns from rewards, killed in the middle of a batch of answers: the same command ends with the same
bits."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learn.test_reinforced import PASSES, prompts, stage

import tiny
from ft.files import read_json, read_lines

TRAIN = {**PASSES, "max_steps": 9, "num_iterations": 2, "save_steps": 3, "eval_steps": 3, "save_total_limit": 4}


def logged(folder: Path) -> list[tuple[Any, ...]]:
    keys = ("step", "loss", "reward", "kl", "value/loss", "eval_reward", "eval_kl", "num_tokens")
    lines = [line for line in read_lines(folder / "metrics.jsonl") if "train_runtime" not in line]
    return [tuple(line.get(key) for key in keys) for line in lines]


def assert_same(folder: Path, undisturbed: Path) -> None:
    left, right = tiny.weights(folder), tiny.weights(undisturbed)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert logged(folder) == logged(undisturbed)
    assert read_lines(folder / "rollouts.jsonl") == read_lines(undisturbed / "rollouts.jsonl")
    assert read_json(folder / "done.json")["numbers"] == read_json(undisturbed / "done.json")["numbers"]


def test_ppo_killed_between_two_uses_of_a_batch_ends_with_the_same_bits(tmp_path, ending):
    learner = stage("ppo", prompts(tmp_path / "prompts.jsonl"), TRAIN, lora=tiny.LORA)
    file, runs = tiny.recipe(tmp_path, [learner], model=str(ending)), tmp_path / "runs"
    undisturbed = tiny.make(tiny.planned(file, tmp_path / "undisturbed"), "ppo").folder
    folder = tiny.planned(file, runs).stage("ppo").folder
    run = tiny.forked(lambda: tiny.make(tiny.planned(file, runs), "ppo"))
    end = time.monotonic() + 120
    while not any(line["step"] >= 6 for line in read_lines(folder / "metrics.jsonl")):  # a batch is used for 4 steps
        assert run.is_alive()
        assert time.monotonic() < end
        time.sleep(0.001)
    run.kill()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not (folder / "done.json").exists()
    tiny.make(tiny.planned(file, runs), "ppo")
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_a_run_that_ends_between_two_uses_of_a_batch_goes_on_to_the_same_bits(kind, tmp_path, ending):
    """At step 14 of 18: 4 steps learn from a batch, and the second epoch begins with step 13."""
    train = {**PASSES, "num_generations": 2, "num_iterations": 2, "max_steps": 18, "save_steps": 7, "eval_steps": 7}
    train |= {"load_best_model_at_end": False, "eval_on_start": False}
    learner = stage(kind, prompts(tmp_path / "prompts.jsonl"), train, lora=tiny.LORA)
    file, runs = tiny.recipe(tmp_path, [learner], model=str(ending)), tmp_path / "runs"
    undisturbed = tmp_path / "undisturbed"
    folder = tiny.make(tiny.planned(file, runs), kind).folder
    shutil.copytree(folder, undisturbed)
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "checkpoint-18")
    (folder / "adapter_model.safetensors").unlink()
    tiny.make(tiny.planned(file, runs), kind)
    assert_same(folder, undisturbed)


def test_a_run_killed_behind_its_last_checkpoint_keeps_the_numbers_of_its_best_step(tmp_path, ending):
    learner = stage("grpo", prompts(tmp_path / "prompts.jsonl"), {**PASSES, "num_generations": 2, "max_steps": 2})
    file, runs = tiny.recipe(tmp_path, [learner], model=str(ending)), tmp_path / "runs"
    made = tiny.make(tiny.planned(file, runs), "grpo")
    numbers = made.done["numbers"]
    assert numbers["kept_step"]
    (made.folder / "done.json").unlink()
    assert tiny.make(tiny.planned(file, runs), "grpo").done["numbers"] == numbers
