"""What an import costs, and what it leaves unimported until somebody uses it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec

import tiny
from ft.imports import import_when_used

SCRIPT = """
import sys
from ft.notices import quiet_libraries
quiet_libraries()
import torch, bitsandbytes
from trl import SFTTrainer
from transformers.integrations import is_wandb_available
print(*(name for name in ("wandb.sdk", "torch._inductor.compile_fx") if name in sys.modules))
quantized, _ = bitsandbytes.functional.quantize_blockwise(torch.ones(64))
print(is_wandb_available(), torch.compile.__module__, quantized.shape)
import wandb
print(wandb.run, callable(wandb.init), wandb.__version__ != "")
"""


def test_wandb_and_the_compiler_are_imported_when_they_are_used_and_work_then():
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=tiny.environment(), capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["", "True torch torch.Size([64])", "None True True"]


def test_a_folder_that_wandb_has_left_is_not_taken_for_its_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    import_when_used()
    assert "wandb" not in sys.modules
