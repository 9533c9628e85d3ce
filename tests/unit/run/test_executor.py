"""How a stage's process is started, and what is told of its end."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

import tiny
from ft.progress import LINES, on_terminal
from ft.run import executor, fork_server
from ft.run.executor import StageProcess, threads
from ft.stages import STAGES


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_fork_that_is_killed_ends_with_the_code_of_a_process_that_is_killed():
    fork = multiprocessing.get_context("fork").Process(target=killed)
    fork.start()
    cold = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert StageProcess(fork).code() == StageProcess(cold).code() == -signal.SIGKILL


def test_ctrl_c_before_there_is_a_process_is_an_interruption():
    assert StageProcess(None).code() == 130


def test_stages_at_once_share_the_threads_and_speak_in_lines():
    alone = {"OMP_NUM_THREADS": "5", "HOME": "/"}
    assert executor.share_threads(alone, 1) == alone
    assert executor.share_threads(alone, 2) == {"OMP_NUM_THREADS": "2", "HOME": "/", LINES: "1"}
    assert executor.share_threads(alone, 9)["OMP_NUM_THREADS"] == "1"
    assert threads({}) == len(os.sched_getaffinity(0))


def test_a_bar_moves_on_the_stages_own_terminal_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", type("Terminal", (), {"isatty": lambda self: True})())
    assert on_terminal()
    monkeypatch.setenv(LINES, "1")
    assert not on_terminal()


@pytest.mark.parametrize(("device", "shown"), [("nvidia0", True), ("kfd", True), ("nvram", False), ("null", False)])
def test_an_accelerator_is_known_by_its_device_file(device, shown, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / device).touch()
    assert fork_server.has_accelerator(tmp_path) is shown


@pytest.mark.parametrize(
    ("device", "visible", "shown"), [("nvidia0", "", False), ("nvidia0", "0", True), ("kfd", "", True)]
)
def test_a_hidden_gpu_is_none(device, visible, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / device).touch()
    assert fork_server.has_accelerator(tmp_path) is shown


def test_tests_and_the_commands_they_start_see_no_gpu():
    code = "import os, torch; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), torch.cuda.is_available())"
    told = subprocess.run([sys.executable, "-c", code], env=tiny.environment(), capture_output=True, text=True)
    assert told.stdout == "'' False\n"


def test_one_stage_alone_or_a_gpu_is_worth_no_fork_server(monkeypatch):
    monkeypatch.setattr(fork_server, "has_accelerator", lambda: False)
    assert [fork_server.worth_it([STAGES["sft"]] * count) for count in (1, 2)] == [False, sys.platform == "linux"]
    monkeypatch.setattr(fork_server, "has_accelerator", lambda: True)
    assert not fork_server.worth_it([STAGES["sft"]] * 2)
