"""Training on every token of plain documents, whole, by LoRA or by QLoRA: fine-tuning without turns that end."""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.stages import sft
from ft.training.loop import train_and_save


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_and_save(trainer_of(job), job)


def trainer_of(job: Job) -> Any:
    """The SFTTrainer, ready to train; the model goes on until the end of a document, not of a turn."""
    return sft.trainer_of(job, ends_turns=False)
