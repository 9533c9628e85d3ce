"""Killed anywhere, the same command continues, and ends with the bits an undisturbed run ends with."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ft.errors import UserError
from ft.files import read_json, read_lines
from ft.recipe import Verdicts, read
from ft.run import prepare_rows
from ft.stages import STAGES

STEPS = 24
TRAIN = {
    **{"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 3},
    **{"eval_strategy": "steps", "eval_steps": 6, "eval_on_start": True, "per_device_eval_batch_size": 64},
}
CHANCE = random.Random(1)
LORA = {**tiny.LORA, "lora_dropout": 0.1}  # draws random numbers at every step


@pytest.fixture
def file(tmp_path, base) -> Path:
    """A recipe of one stage; 3200 rows, so that preparing them can be met in the act."""
    rows = tiny.rows(tmp_path / "rows.jsonl", 3200)
    return tiny.recipe(tmp_path, [tiny.sft(rows, TRAIN, lora=LORA, rows={"eval_fraction": 0.01})], model=str(base))


class Command:
    """`ft run`, as a process group of its own, as a terminal would start it."""

    def __init__(self, file: Path, runs: Path):
        read(file, STAGES, (), Verdicts(runs / ".cache" / "checked.json"))  # TRL is not imported for the check again
        self.runs = runs
        self.at = CHANCE.randrange(1, 10), CHANCE.randrange(12, 20)
        self.folder = tiny.planned(file, runs).stage("sft").folder
        command = [sys.executable, "-m", "ft", "run", str(file), "--runs", str(runs)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=tiny.environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def until(self, seen: Callable[[], Any]) -> None:
        """Wait for something in the folder; polled, because a kill must come in the act."""
        end = time.monotonic() + 120
        while not seen():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.0005)

    def send(self, what: signal.Signals) -> tuple[int, str]:
        """To the whole group, like Ctrl-C; the exit code and what stderr said."""
        os.killpg(self.process.pid, what)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said

    def preparing(self) -> bool:
        return any(file.stat().st_size for file in self.runs.glob(".cache/.rows-*/train.arrow"))

    def step(self, number: int) -> bool:
        return any(line["step"] >= number for line in read_lines(self.folder / "metrics.jsonl"))

    def early(self) -> bool:
        return self.step(self.at[0])

    def late(self) -> bool:
        return self.step(self.at[1])

    def writing_a_checkpoint(self) -> bool:
        found = self.folder.glob("checkpoints/checkpoint-*")
        return any(not (folder / "trainer_state.json").exists() for folder in found)

    def at_the_end(self) -> bool:
        return (self.folder / "checkpoints" / f"checkpoint-{STEPS}" / "trainer_state.json").exists()


def undisturbed(file: Path, tmp_path: Path) -> Path:
    return tiny.make(tiny.planned(file, tmp_path / "undisturbed"), "sft").folder


def same(one: Path, other: Path) -> bool:
    left, right = tiny.weights(one), tiny.weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def logged(folder: Path, key: str) -> list[tuple[int, float]]:
    return [(line["step"], line[key]) for line in read_lines(folder / "metrics.jsonl") if key in line]


def assert_as_undisturbed(folder: Path, reference: Path) -> None:
    assert same(folder, reference)
    assert [step for step, _ in logged(folder, "loss")] == list(range(1, STEPS + 1))
    assert [step for step, _ in logged(folder, "eval_loss")] == [0, 6, 12, 18, 24]
    for key in ("loss", "eval_loss", "num_tokens"):
        assert logged(folder, key) == logged(reference, key)
    numbers = [read_json(place / "done.json")["numbers"] for place in (folder, reference)]
    assert numbers[0] == numbers[1]


def killed_whole(run: Command) -> None:
    code, _ = run.send(signal.SIGKILL)
    assert code == -signal.SIGKILL


def killed_alone(run: Command) -> None:
    """Only `ft run`, not its stage, which has to notice: communicate() returns when the stage is gone as well."""
    run.process.kill()
    run.ended()
    assert not run.at_the_end()


@pytest.mark.parametrize(
    ("kill", "moments"),
    [
        (killed_whole, [Command.preparing, Command.writing_a_checkpoint, Command.at_the_end]),
        (killed_alone, [Command.early, Command.late]),
    ],
)
def test_killed_again_and_again_it_ends_with_the_same_bits(kill, moments, file, tmp_path):
    reference = undisturbed(file, tmp_path)
    for moment in moments:
        run = Command(file, tmp_path / "runs")
        run.until(lambda run=run, moment=moment: moment(run))
        kill(run)
        assert not (run.folder / "done.json").exists()
    run = Command(file, tmp_path / "runs")
    assert run.ended()[0] == 0
    assert_as_undisturbed(run.folder, reference)
    assert list((tmp_path / "runs" / ".cache").glob(".rows-*")) == []


@pytest.mark.parametrize("moment", [Command.preparing, lambda run: run.step(9)], ids=["preparing", "training"])
def test_ctrl_c_ends_with_130_and_no_traceback_and_the_same_command_continues(moment, file, tmp_path):
    run = Command(file, tmp_path / "runs")
    run.until(lambda: moment(run))
    code, said = run.send(signal.SIGINT)
    assert code == 130
    assert "Traceback" not in said
    if moment is not Command.preparing:
        assert said.splitlines()[-1] == "sft: interrupted. The same command continues."
        tiny.make(tiny.planned(file, tmp_path / "runs"), "sft")
        assert_as_undisturbed(run.folder, undisturbed(file, tmp_path))


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_newest_checkpoint_cut_short_is_passed_over(broken, file, tmp_path):
    folder = tiny.make(tiny.planned(file, tmp_path / "runs"), "sft").folder
    reference = folder.rename(tmp_path / "reference")
    (folder / "checkpoints").mkdir(parents=True)
    for step in (16, 20):
        (reference / "checkpoints" / f"checkpoint-{step}").rename(folder / "checkpoints" / f"checkpoint-{step}")
    newest = folder / "checkpoints" / "checkpoint-20" / broken
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    tiny.make(tiny.planned(file, tmp_path / "runs"), "sft")
    assert_as_undisturbed(folder, reference)


def test_a_full_disk_leaves_no_half_prepared_rows(file, tmp_path):
    there = tiny.planned(file, tmp_path / "runs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError) as refused:
            prepare_rows(there, there.stage("sft"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the rows cannot be written: " in str(refused.value)
    assert [path.name for path in (tmp_path / "runs" / ".cache").iterdir() if "rows" in path.name] == []
    assert there.stage("sft").folder.exists() is False
    prepare_rows(there, there.stage("sft"))
    assert tiny.planned(file, tmp_path / "runs").stage("sft").prepared["train"]["rows"] > 2000
