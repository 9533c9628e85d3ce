"""Which checkpoint a run may continue from."""

from __future__ import annotations

import json
from pathlib import Path


def latest(folder: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint and its step; one that a kill left half-written is passed over.

    The Trainer writes trainer_state.json last, so a checkpoint whose state can be read has everything else.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return checkpoint, int(state["global_step"])
    return None
