"""What a killed stage leaves of Ray is ended and tidied, by a program that waits for the stage's end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ft.models.generation.ray_cluster import start_reaper

SLEEP = [sys.executable, "-S", "-c", "import time; print(flush=True); time.sleep(60)"]


def started(*arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*SLEEP, *arguments], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone shows processes there")
def test_processes_of_the_folder_end_and_its_logs_are_kept(tmp_path):
    temporary = tmp_path / "ray"
    logs = temporary / "session_2026-11-01" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("what it wrote", encoding="utf-8")
    (logs / "empty.err").touch()
    processes = started(f"--temp-dir={temporary}"), started()
    try:
        start_reaper(temporary, tmp_path / "stage" / "ray-logs").communicate()
        assert processes[0].wait(timeout=10) == -9
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [file.name for file in (tmp_path / "stage" / "ray-logs").iterdir()] == ["raylet.out"]
    assert not temporary.exists()
