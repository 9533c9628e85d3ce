"""The only file that touches private names of TRL and transformers (both are pinned)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the trainer's model, adapters included, without training a step."""
    trainer._load_from_checkpoint(str(checkpoint))


def attention_of(model: Any) -> str:
    """The attention implementation that a loaded model runs: eager, sdpa, flash_attention_2, …"""
    return str(model.config._attn_implementation)


class TokenCount(TrainerCallback, ExportableState):
    """Carries the count of trained tokens over an interruption, inside the checkpoint; TRL 1.16 begins at 0 again."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"tokens": self.trainer._total_train_tokens}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept: Any = state.stateful_callbacks  # a list of callbacks at first, a dict of what they said ever after
        saved = kept["TokenCount"]
        self.trainer._total_train_tokens = saved["attributes"]["tokens"]
