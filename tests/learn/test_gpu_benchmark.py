"""The GPU benchmark does on a CPU, at tiny size, all that it does on a GPU but the measuring of its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tests/gpu has it at its own size")
def test_the_gpu_benchmark_runs_a_stage_at_tiny_size(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--shape", "tiny", "--steps", "4"]
    done = subprocess.run(
        [*command, "--stages", "dpo", "--sides", "ft", "--json", str(tmp_path / "found.json")],
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert found["stage"] == "dpo"
    assert found["tokens/s"] > 0
    assert found["estimate"] > 0
