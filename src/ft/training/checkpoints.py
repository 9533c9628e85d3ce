"""Which checkpoint a run may continue from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from ft import artifacts


def latest(folder: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint in a folder, and its step; one that a kill left half-written is passed over.

    The Trainer writes trainer_state.json last, so after a kill its presence is enough; a full disk or a lost machine
    leaves files cut short, which their own formats tell.
    """
    for checkpoint in reversed(artifacts.checkpoints(folder)):
        try:
            state = json.loads((checkpoint / artifacts.TRAINER_STATE).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if all(_whole(file) for file in checkpoint.iterdir()):
            return checkpoint, int(state["global_step"])
    return None


def _whole(file: Path) -> bool:
    """Weights are as long as their header says, and PyTorch's files, which are zip files, have their end."""
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".safetensors":
        try:
            with safe_open(str(file), framework="pt"):
                return True
        except SafetensorError:
            return False
    return file.suffix not in (".pt", ".pth") or zipfile.is_zipfile(file)
