"""What an import costs, and what it leaves unimported until somebody uses it."""

from __future__ import annotations

import subprocess
import sys

import tiny

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
