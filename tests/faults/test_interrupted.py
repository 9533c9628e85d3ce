"""Killed anywhere, the same command continues, and ends with the bits an undisturbed run ends with."""

from __future__ import annotations

import os
import random
import resource
import shutil
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
from ft.run import fork_server
from ft.run.rows import prepare_rows
from ft.stages import STAGES
from wording import Like

STEPS = 24
TRAIN = {
    **{"max_steps": STEPS, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 3},
    **{"eval_strategy": "steps", "eval_steps": 6, "eval_on_start": True, "per_device_eval_batch_size": 64},
}
CHANCE = random.Random(1)
LORA = {**tiny.LORA, "lora_dropout": 0.1}  # draws random numbers at every step


@pytest.fixture(scope="module")
def file(tmp_path_factory, base) -> Path:
    """A recipe of one stage; 3200 rows, so that preparing them can be met in the act."""
    folder = tmp_path_factory.mktemp("interrupted")
    rows = tiny.rows(folder / "rows.jsonl", 3200)
    return tiny.recipe(folder, [tiny.sft(rows, TRAIN, lora=LORA, rows={"eval_fraction": 0.01})], model=str(base))


@pytest.fixture(scope="module")
def undisturbed(file) -> Path:
    """The result of a run that nothing stopped."""
    runs = file.parent / "undisturbed"
    read(file, STAGES, (), Verdicts(runs / ".cache" / "checked.json"))  # commands import no TRL for the check again
    return tiny.make(tiny.planned(file, runs), "sft").folder


@pytest.fixture
def prepared(undisturbed, tmp_path) -> Path:
    """Where results go; the rows are there already."""
    shutil.copytree(undisturbed.parents[1] / ".cache", tmp_path / "runs" / ".cache")
    return tmp_path / "runs"


class Run:
    """Something that makes the stage, looked at from outside."""

    def __init__(self, file: Path, runs: Path):
        self.runs = runs
        self.at = CHANCE.randrange(1, 10), CHANCE.randrange(13, 20)
        self.folder = tiny.planned(file, runs).stage("sft").folder

    def has_ended(self) -> bool:
        raise NotImplementedError

    def until(self, seen: Callable[[], Any]) -> None:
        """Wait for something in the folder; polled, because a kill must come in the act."""
        end = time.monotonic() + 120
        while not seen():
            assert not self.has_ended()
            assert time.monotonic() < end
            time.sleep(0.002 if self.is_at_work() else 0.02)

    def is_at_work(self) -> bool:
        """Whether its libraries are imported."""
        return self.preparing() or (self.folder / "metrics.jsonl").exists()

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


class Forked(Run):
    """What `ft run` and its stage do, in one process."""

    def __init__(self, file: Path, runs: Path):
        super().__init__(file, runs)
        self.process = tiny.forked(lambda: tiny.make(tiny.planned(file, runs), "sft"))

    def has_ended(self) -> bool:
        return not self.process.is_alive()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL


class Command(Run):
    """`ft run`, as a process group of its own, as a terminal would start it."""

    def __init__(self, file: Path, runs: Path, *more: str):
        super().__init__(file, runs)
        command = [sys.executable, "-m", "ft", "run", str(file), "--runs", str(runs), *more]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=tiny.environment(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def importing(self) -> bool:
        """Whether the process that forks the stages has begun to import torch; it needs seconds until it can fork."""
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        )
        servers = [
            child for child in children if "forkserver" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
        ]
        return any("libtorch" in Path(f"/proc/{child}/maps").read_text(encoding="utf-8") for child in servers)

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C, which reaches the whole group; the exit code and what stderr said."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


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


def test_killed_again_and_again_it_ends_with_the_same_bits(file, undisturbed, tmp_path):
    runs = tmp_path / "runs"
    moments = (Run.preparing, Run.early, Run.writing_a_checkpoint, Run.late, Run.at_the_end)
    for moment in moments:
        run = Forked(file, runs)
        run.until(lambda run=run, moment=moment: moment(run))
        run.kill()
        assert not (run.folder / "done.json").exists()
    tiny.make(tiny.planned(file, runs), "sft")
    assert_as_undisturbed(run.folder, undisturbed)
    assert list((runs / ".cache").glob(".rows-*")) == []


def test_when_ft_run_is_killed_its_stage_ends_too_and_the_run_goes_on(file, undisturbed, prepared):
    run = Command(file, prepared)
    run.until(run.late)
    run.process.kill()
    run.ended()  # communicate() returns when the stage is gone as well: it has to notice
    assert not run.at_the_end()
    assert not (run.folder / "done.json").exists()
    tiny.make(tiny.planned(file, prepared), "sft")
    assert_as_undisturbed(run.folder, undisturbed)


def test_ctrl_c_in_training_ends_with_130_and_no_traceback_and_the_run_goes_on(file, undisturbed, prepared):
    run = Command(file, prepared)
    run.until(lambda: run.step(9))
    code, said = run.interrupt()
    assert code == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == Like("sft: interrupted … continues …")
    tiny.make(tiny.planned(file, prepared), "sft")
    assert_as_undisturbed(run.folder, undisturbed)


@pytest.mark.usefixtures("undisturbed")
def test_ctrl_c_while_rows_are_prepared_ends_with_130_and_no_traceback(file, tmp_path):
    (tmp_path / "runs" / ".cache").mkdir(parents=True)
    shutil.copy(file.parent / "undisturbed" / ".cache" / "checked.json", tmp_path / "runs" / ".cache")
    run = Command(file, tmp_path / "runs")
    run.until(run.preparing)
    code, said = run.interrupt()
    assert code == 130
    assert "Traceback" not in said


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_newest_checkpoint_cut_short_is_passed_over(broken, file, undisturbed, prepared):
    folder = tiny.planned(file, prepared).stage("sft").folder
    for step in (16, 20):
        shutil.copytree(
            undisturbed / "checkpoints" / f"checkpoint-{step}", folder / "checkpoints" / f"checkpoint-{step}"
        )
    newest = folder / "checkpoints" / "checkpoint-20" / broken
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    tiny.make(tiny.planned(file, prepared), "sft")
    assert_as_undisturbed(folder, undisturbed)


def test_a_full_disk_leaves_no_half_prepared_rows(file, tmp_path):
    there = tiny.planned(file, tmp_path / "runs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError) as refused:
            prepare_rows(there, there.stage("sft"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "larger than this system allows" in str(refused.value)
    assert [path.name for path in (tmp_path / "runs" / ".cache").iterdir() if "rows" in path.name] == []
    assert there.stage("sft").folder.exists() is False
    prepare_rows(there, there.stage("sft"))
    assert tiny.planned(file, tmp_path / "runs").stage("sft").prepared["train"]["rows"] > 2000


@pytest.fixture
def chain(file, tmp_path) -> Path:
    """The same stage, and two that go on from it: started from a process that has imported the libraries."""
    rows, short = file.parent / "rows.jsonl", {**TRAIN, "max_steps": 2, "eval_strategy": "no", "eval_on_start": False}
    stages = [tiny.sft(rows, TRAIN, lora=LORA, rows={"eval_fraction": 0.01})]
    stages += [tiny.sft(rows, short, name=name, init="$sft", lora=LORA) for name in ("one", "two")]
    return tiny.recipe(tmp_path, stages, model=tiny.checked(file).model.path)


@pytest.mark.skipif(not fork_server.worth_it([STAGES["sft"]] * 2), reason="stages start cold here")
def test_stages_of_a_chain_end_when_killed_and_go_on_to_the_bits_of_stages_started_one_by_one(chain, tmp_path):
    runs, reference = tmp_path / "runs", tiny.planned(chain, tmp_path / "undisturbed")
    for name in ("sft", "one", "two"):
        tiny.make(reference, name)
    read(chain, STAGES, (), Verdicts(runs / ".cache" / "checked.json"))
    run = Command(chain, runs)
    run.until(run.early)
    run.process.kill()
    run.ended()  # communicate() returns when the stage is gone as well: it has to notice
    assert not run.at_the_end()

    run = Command(chain, runs, "--jobs", "2")
    run.until(run.importing)
    code, said = run.interrupt()
    assert code == 130
    assert said.splitlines()[-1] == Like("sft: interrupted … continues …")
    assert "Traceback" not in said

    run = Command(chain, runs, "--jobs", "2")
    assert run.ended()[0] == 0
    assert_as_undisturbed(run.folder, reference.stage("sft").folder)
    for name in ("one", "two"):
        assert same(tiny.planned(chain, runs).stage(name).folder, reference.stage(name).folder)
