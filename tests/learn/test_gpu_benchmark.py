"""The GPU benchmark does on a CPU, at tiny size, all that it does on a GPU but the measuring of its memory."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

import tiny

ROOT = tiny.ROOT


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tests/gpu has it at its own size")
def test_the_gpu_benchmark_runs_a_stage_at_tiny_size(tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    words = ["--shape", "tiny", "--steps", "4", "--stages", "dpo", "--sides", "ft", "unsloth"]
    monkeypatch.delenv("UNSLOTH_PYTHON", raising=False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words, "--json", str(tmp_path / "found.json")])

    def measure(command, **_):
        """The process of its own that measures, forked: it needs not import the libraries again."""
        process = tiny.forked(lambda: (setattr(sys, "argv", command[1:]), gpu.main()))
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode)

    monkeypatch.setattr(gpu.subprocess, "run", measure)
    gpu.main()
    found, peer = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["results"]
    assert "dpo     unsloth   not installed (UNSLOTH_PYTHON)" in capfd.readouterr().out
    assert peer["not_installed"]
    assert found["stage"] == "dpo"
    assert found["tokens/s"] > 0
    assert found["estimate"] > 0
