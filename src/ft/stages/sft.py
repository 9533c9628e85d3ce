"""Supervised fine-tuning on prepared rows, whole, by LoRA or by QLoRA."""

from __future__ import annotations

from typing import Any

from ft.encode.prepare import eval_rows, train_rows
from ft.errors import fail
from ft.families import family_of
from ft.recipe.job import Job
from ft.recipe.kind import function_at
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, policy, train_and_save


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_and_save(trainer_of(job), job)


def trainer_of(job: Job, ends_turns: bool = True) -> Any:
    """The family's trainer, ready to train: model, prepared rows, and what ft watches while it trains.

    `ends_turns`: whether the saved model ends an answer where the chat template ends a turn.
    """
    from trl import SFTConfig

    assert job.rows is not None
    held_out = eval_rows(job.rows)
    evaluation_has_rows(job, held_out)
    # Ids and labels are ready; TRL would cut and filter them.
    config = arguments(job, SFTConfig, dataset_kwargs={"skip_prepare_dataset": True})
    model, tokenizer = policy(job, config, ends_turns)
    family = family_of(model.config, job.where)
    if "parts" in job.blocks and (not family.has_parts or "lora" in job.blocks):
        what = f"`parts:` trains parts of a model whole, and {family.about} have none"
        what = "`parts:` trains parts of a model whole, and `lora:` adapters alone" if family.has_parts else what
        raise fail(job.where, what, "Leave `parts:` out, and name modules in `lora: {target_modules: …}`.")
    make_trainer = function_at(family.trainer)
    trainer = make_trainer(job, family, model, tokenizer, config, train_rows(job.rows), held_out)
    return add_callbacks(trainer, job)
