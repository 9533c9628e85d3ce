"""The only file that touches private names of TRL and transformers (both are pinned)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the trainer's model, adapters included, without training a step."""
    trainer._load_from_checkpoint(str(checkpoint))
