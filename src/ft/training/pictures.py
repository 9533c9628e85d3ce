"""The trainer of rows with pictures: BLIP-2's second stage, and fine-tuning behind it."""

from __future__ import annotations

from typing import Any

import torch

from ft.families import Family
from ft.families.image_text import ImageTextFamily, PartOptions, is_of
from ft.models.device import compute_dtype
from ft.recipe.job import Job
from ft.training.frozen import FrozenParts
from ft.training.seq2seq import LabelTrainer


def make_trainer(job: Job, family: Family, model: Any, tokenizer: Any, config: Any, rows: Any, held_out: Any) -> Any:
    """A LabelTrainer on prepared rows, whose collator opens their pictures.

    Without adapters the parts that `parts:` names are trained, in float32, and the rest is held as the run computes.
    """
    assert isinstance(family, ImageTextFamily)
    if "lora" not in job.blocks:
        train_parts(model, PartOptions(**job.block("parts")), compute_dtype(config))
    config.remove_unused_columns = False  # the collator reads the picture, which is no argument of the model
    trainer: Any = LabelTrainer(
        family=family,
        model=model,
        args=config,
        data_collator=family.picture_collator(tokenizer, config.pad_to_multiple_of),
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    trainer.add_callback(FrozenParts(job.where))
    return trainer


def train_parts(model: Any, options: PartOptions, dtype: str) -> None:
    """Let these parts of a BLIP-2 be trained, and no other; what stays is held in `dtype`."""
    for name, value in model.named_parameters():
        value.requires_grad_(is_of(name, options.trained))
        if not value.requires_grad:
            value.data = value.data.to(getattr(torch, dtype))
