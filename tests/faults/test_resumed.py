"""Whatever `train:` says of order, data or random numbers: resumed from a checkpoint, a run ends with the same bits."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ft import artifacts
from ft.errors import UserError
from ft.files import read_lines
from ft.recipe.job import Job
from ft.stages import kto, orpo, sft, simpo
from ft.training.loop import train
from ft.training.trl_compat import trained_tokens

STEPS, KILLED_AT = 7, 4  # of three steps an epoch: resumed in the second, it ends in the third
ROWS = 16  # 13 are trained on; the last batch of an epoch is smaller
TRAIN = {
    **{"max_steps": STEPS, "save_strategy": "steps", "save_steps": KILLED_AT, "per_device_train_batch_size": 5},
    **{"logging_steps": 100, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True},
}
LORA = {**tiny.LORA, "r": 2, "lora_dropout": 0.1}  # draws random numbers at every step
BY_LENGTH = {"train_sampling_strategy": "group_by_length"}
ACCUMULATED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}

CASES: dict[str, dict[str, Any]] = {
    "as it is": {"eval_strategy": "no", "eval_on_start": False},
    "evaluated": {},
    "by length": {**BY_LENGTH, "eval_strategy": "no", "eval_on_start": False},
    "by length, evaluated": BY_LENGTH,
    "by length, accumulated": {**BY_LENGTH, **ACCUMULATED},
    "by length, packed": {**BY_LENGTH, "packing": True},
    "balanced": {"train_sampling_strategy": "batch_rebalance"},
    "sequential": {"train_sampling_strategy": "sequential"},
    "accumulated": ACCUMULATED,
    "another seed of the data": {"data_seed": 7},
    "last batch dropped": {"dataloader_drop_last": True},
    "read by workers": {"dataloader_num_workers": 1},
    "read by workers that stay": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "noise on embeddings": {"neftune_noise_alpha": 5.0},
    "packed": {"packing": True},
    "deterministic": {"full_determinism": True},
    "slower on a plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"},
    "warmed up": {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    "the best kept": {"load_best_model_at_end": True, "eval_steps": KILLED_AT},
    "batches split": {"accelerator_config": {"split_batches": True}},
    "batches uneven": {"accelerator_config": {"even_batches": False}},
    "checkpointed activations": {"gradient_checkpointing": True},
    "another optimizer": {"optim": "adafactor"},
}


@pytest.fixture(autouse=True)
def _no_worker_stays() -> Iterator[None]:
    """Workers that stay hold copies of this process's pipes: a browser of another test would be waited for for ever."""
    yield
    for child in multiprocessing.active_children():
        child.terminate()
        child.join()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.rows(tmp_path_factory.mktemp("resumed") / "rows.jsonl", ROWS)


def trained(job: Job, make_trainer: Callable[[Job], Any]) -> dict[str, torch.Tensor]:
    """What the job has learnt at its end, and from how many tokens."""
    trainer = make_trainer(job)
    train(trainer, job)
    learnt = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    return learnt | {"tokens": torch.tensor(trained_tokens(trainer))}


def assert_ends_the_same(job: Job, make_trainer: Callable[[Job], Any]) -> None:
    """Trained to its end, and again from the checkpoint alone, as after a kill."""
    whole = trained(job, make_trainer)
    for checkpoint in artifacts.checkpoints(job.checkpoints):
        if checkpoint.name != f"checkpoint-{KILLED_AT}":
            shutil.rmtree(checkpoint)
    torch.rand(7)  # a process of its own begins with other random numbers
    resumed = trained(job, make_trainer)
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_with_the_same_bits(case, base, rows, tmp_path):
    stage = tiny.sft(rows, {**TRAIN, **CASES[case]}, lora=LORA, rows={"eval_fraction": 0.2})
    file = tiny.recipe(tmp_path, [stage], model=str(base))
    assert_ends_the_same(tiny.job(tiny.planned(file, tmp_path / "runs"), "sft"), sft.trainer_of)


@pytest.mark.parametrize("kind", [kto, orpo, simpo], ids=["kto", "orpo", "simpo"])
def test_a_resumed_run_on_preferences_ends_with_the_same_bits(kind, base, tmp_path):
    pairs = [{"prompt": f"{n}?", "chosen": f"it is {n}", "rejected": "no" * (n % 5 + 1)} for n in range(ROWS)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    name = kind.__name__.rpartition(".")[2]
    stage = tiny.sft(file, TRAIN, lora=LORA, rows={"eval_fraction": 0.2}, kind=name)
    recipe = tiny.recipe(tmp_path, [stage], model=str(base))
    assert_ends_the_same(tiny.job(tiny.planned(recipe, tmp_path / "runs"), name), kind.trainer_of)


def test_what_is_logged_after_an_interruption_is_what_an_undisturbed_run_logs(base, rows, tmp_path):
    """Though the checkpoint is written between two logs, and each is a mean since the one before."""
    stage = tiny.sft(rows, {**TRAIN, "logging_steps": 3}, lora=LORA, rows={"eval_fraction": 0.2})
    job = tiny.job(tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs"), "sft")
    tokens = trained(job, sft.trainer_of)["tokens"]
    whole = logged(job)
    assert trained(job, sft.trainer_of)["tokens"] == tokens  # killed behind its last step, it makes none
    assert [line["step"] for line in whole if "loss" in line] == [3, 4, 6, 7]
    shutil.rmtree(job.checkpoints / f"checkpoint-{STEPS}")
    trained(job, sft.trainer_of)
    assert logged(job) == whole


def logged(job: Job) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without how fast it went."""
    clocks = ("runtime", "per_second", "peak_memory")
    lines = read_lines(job.folder / artifacts.METRICS)
    return [{name: value for name, value in line.items() if not name.endswith(clocks)} for line in lines]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("ignore_data_skip", True, "train.ignore_data_skip"),
        ("accelerator_config", {"use_seedable_sampler": False}, "use_seedable_sampler false is refused"),
        ("accelerator_config", {"dispatch_batches": True}, "dispatch_batches true is refused"),
    ],
)
def test_what_would_train_other_rows_after_an_interruption_is_refused(key, value, named, base, rows, tmp_path):
    file = tiny.recipe(tmp_path, [tiny.sft(rows, {key: value})], model=str(base))
    with pytest.raises(UserError, match=named):
        tiny.checked(file)
