"""A recipe with `global_batch` learns the same on any number of processes, however they are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learn import test_reward as graded
from tests.learn.test_dpo import farthest, written

import tiny
from ft.files import read_json, read_lines
from ft.recipe import Verdicts, read
from ft.results.store import PlannedStage
from ft.run.rows import prepare_rows
from ft.stages import STAGES
from wording import Like

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="the processes would take GPUs")

# To add a kind: its stage without data and batch; `train` goes over the tiny defaults. It starts from an SFT adapter.
KINDS: dict[str, dict[str, Any]] = {
    "sft": {"kind": "sft", "train": {}},
    "sft, rows of like length, two epochs": {
        "kind": "sft",
        "train": {"train_sampling_strategy": "group_by_length", "max_steps": -1, "num_train_epochs": 2},
    },
    "reward": {"kind": "reward", "train": {"learning_rate": 1e-3}, "reward": {"safety_weight": 0.5}},
    "dpo": {"kind": "dpo", "train": {"learning_rate": 1e-3, "beta": 0.5}},
    "dpo, reference kept": {"kind": "dpo", "train": {"learning_rate": 1e-3, "precompute_ref_log_probs": True}},
    "orpo": {"kind": "orpo", "train": {"learning_rate": 1e-3, "beta": 0.5}},
}
LORA = {"lora": tiny.LORA}


@pytest.fixture(scope="module")
def parent(tmp_path_factory, base, data) -> Path:
    """Runs in which the SFT is made that every stage starts from."""
    folder = tmp_path_factory.mktemp("parent")
    file = tiny.recipe(folder, [tiny.sft(data, name="start", **LORA)], model=str(base))
    tiny.make(tiny.planned(file, folder / "runs"), "start")
    return folder / "runs"


@pytest.fixture
def house(tmp_path, base, data, parent) -> House:
    (tmp_path / "runs").symlink_to(parent)
    return House(tmp_path, base, data)


class House:
    """A recipe of a finished SFT and one stage of KINDS behind it."""

    def __init__(self, folder: Path, base: Path, data: Path):
        self.folder, self.base, self.data, self.runs = folder, base, data, folder / "runs"
        self.pairs = written(folder / "pairs.jsonl", graded.PAIRS)
        self.rows = tiny.rows(folder / "rows.jsonl", 48)  # grouped by length, 4 rows a process mix otherwise than 8

    def file(self, kind: str, batch: int = 8, **train: Any) -> Path:
        there = KINDS[kind]
        rows = self.rows if there["kind"] == "sft" else self.pairs
        values = {**tiny.TRAIN, "max_length": 128, "max_grad_norm": 0.5, **there["train"], **train}
        stage = {**there, "name": "stage", "init": "$start", **LORA, "train": values, "data": [{"path": str(rows)}]}
        first = tiny.sft(self.data, name="start", **LORA)
        return tiny.recipe(self.folder, [first, {**stage, "global_batch": batch}], model=str(self.base))

    def by_one(self, kind: str, a_device: int, **train: Any) -> PlannedStage:
        file = self.file(kind, per_device_train_batch_size=a_device, **train)
        return tiny.make(tiny.planned(file, self.runs), "stage")

    def by_two(self, kind: str, a_device: int, **train: Any) -> PlannedStage:
        return tiny.made_by_two(self.file(kind, per_device_train_batch_size=a_device, **train), self.runs, "stage")

    def aside(self, made: PlannedStage, name: str) -> Path:
        """The result, away from where the next one goes: both have the same name."""
        return made.folder.rename(self.folder / name)


def learnt(folder: Path) -> dict[str, list[float]]:
    """What the trainer logged at every step."""
    lines = [line for line in read_lines(folder / "metrics.jsonl") if "loss" in line]
    return {key: [line[key] for line in lines] for key in ("step", "loss", "grad_norm", "learning_rate")}


def assert_the_same(one: Path, other: Path) -> None:
    ours, theirs = learnt(one), learnt(other)
    assert ours["step"] == theirs["step"]
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key
    assert farthest(tiny.weights(one), tiny.weights(other)) < 5e-5  # of 4e-3 that four steps of AdamW move them


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns_and_so_do_other_splits_of_the_batch(kind, house):
    whole = house.by_one(kind, a_device=8)
    made = whole.done["numbers"]
    first = house.aside(whole, "whole")
    split = house.by_one(kind, a_device=2)  # 1 x 8 = 4 x 2
    assert split.folder == whole.folder  # how a batch is split decides no result
    assert_the_same(house.aside(split, "split"), first)
    both = house.by_two(kind, a_device=2)
    assert both.folder == whole.folder
    assert both.done["processes"] == 2
    assert_the_same(both.folder, first)
    assert (both.batch, both.steps) == (8, made["steps"])  # as `ft plan` says
    for name in ("steps", "tokens"):
        assert both.done["numbers"].get(name) == made.get(name)
    scores = [read_json(folder / "scores.json") or [] for folder in (both.folder, first)]
    for ours, theirs in zip(*scores, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_what_two_processes_began_one_goes_on_with(house):
    saved = {"save_strategy": "steps", "save_steps": 2}
    first = house.aside(house.by_one("sft", a_device=4, **saved), "whole")
    begun = house.by_two("sft", a_device=4, **saved).folder
    (begun / "done.json").unlink()
    (begun / "checkpoints" / "checkpoint-4").rename(house.folder / "gone")
    again = house.by_one("sft", a_device=4, **saved)
    assert again.folder == begun
    assert again.done["processes"] == 1
    assert_the_same(begun, first)


def of_one_stage(folder: Path, base: Path, data: Path, **train: Any) -> Path:
    """A recipe of one stage, found right already: the libraries are not imported for the check again."""
    stage = tiny.sft(data, {"per_device_train_batch_size": 4, **train}, global_batch=8)
    file = tiny.recipe(folder, [stage], model=str(base))
    for runs in ("runs", "alone"):
        read(file, STAGES, (), Verdicts(folder / runs / ".cache" / "checked.json"))
    return file


def test_a_killed_process_ends_the_run_at_once_and_the_run_goes_on(tmp_path, base, data, capfd):
    steps = {"max_steps": 60, "save_strategy": "steps", "save_steps": 20, "save_total_limit": 1}
    file, runs = of_one_stage(tmp_path, base, data, **steps), tmp_path / "runs"
    there = tiny.planned(file, runs, processes=2)
    prepare_rows(there, there.stage("sft"))
    folder = there.stage("sft").folder
    run = subprocess.Popen(tiny.launched(file, runs), env=tiny.environment(), stderr=subprocess.PIPE, text=True)
    while not any(line["step"] > 20 for line in read_lines(folder / "metrics.jsonl")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.001 if (folder / "metrics.jsonl").exists() else 0.02)
    os.kill(process_of_rank(1, folder), signal.SIGKILL)
    killed = time.monotonic()
    _, said = run.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert run.returncode == 1
    assert "sft: 2 processes, global batch size 8\n" in said
    assert "sft: process 1 was killed by SIGKILL (out of memory, or from outside)\n" in said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == Like("sft: … 1 … command continues …")
    assert not (folder / "done.json").exists()
    capfd.readouterr()
    assert tiny.made_by_two(file, runs, "sft").state == "done"
    went_on = capfd.readouterr().err
    assert "sft: step 1/60" not in went_on  # it went on from step 20
    assert went_on.count("sft: step 60/60") == 1  # the second process is silent
    alone = tiny.make(tiny.planned(file, tmp_path / "alone"), "sft").folder
    assert_the_same(folder, alone)


def process_of_rank(rank: int, folder: Path) -> int:
    """The process that makes the stage in `folder` as this rank."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(folder / "job.json").encode() in command and f"RANK={rank}".encode() in environment:
            return int(process.name)
    raise AssertionError("no such process")


def test_under_accelerate_launch_one_prepares_and_all_train(tmp_path, base, data):
    file = of_one_stage(tmp_path, base, data)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tiny.CPU_2), "-m"]
    command += ["ft", "run", str(file), "--only", "sft", "--runs", str(tmp_path / "runs")]
    made = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert made.stderr.count("sft: 32 rows, ") == 1
    assert made.stderr.count("sft: step 4/4") == 1
    both = tiny.planned(file, tmp_path / "runs").stage("sft")
    assert both.done["processes"] == 2
    alone = tiny.make(tiny.planned(file, tmp_path / "alone"), "sft").folder
    assert_the_same(both.folder, alone)
