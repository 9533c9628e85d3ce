"""Supervised fine-tuning on prepared rows, whole, by LoRA or by QLoRA."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ft.encode.prepare import eval_rows, train_rows
from ft.families import family_of
from ft.models.adapters import adapters_kept
from ft.recipe.job import Job
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, policy, train_and_save


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_and_save(trainer_of(job), job)


def trainer_of(job: Job, ends_turns: bool = True) -> Any:
    """The SFTTrainer, ready to train: model, prepared rows, and what ft watches while it trains.

    `ends_turns`: whether the saved model ends an answer where the chat template ends a turn.
    """
    from trl import SFTConfig, SFTTrainer

    from ft.training.packing import refuse_leaks
    from ft.training.padding_free import leave_padding_out
    from ft.training.trl_compat import score_supervised_only

    assert job.rows is not None
    held_out = eval_rows(job.rows)
    evaluation_has_rows(job, held_out)
    # Ids and labels are ready; TRL would cut and filter them.
    config = arguments(job, SFTConfig, dataset_kwargs={"skip_prepare_dataset": True})
    model, tokenizer = policy(job, config, ends_turns)
    score_supervised_only()
    family = family_of(model.config, job.where)
    flat = config.packing or config.padding_free  # TRL flattens rows by a collator of its own
    collator = None if flat else family.collator(tokenizer.pad_token_id, config.pad_to_multiple_of)
    with adapters_kept(model) if "lora" in job.blocks else nullcontext():
        trainer: Any = SFTTrainer(
            model=model,
            args=config,
            train_dataset=train_rows(job.rows),
            eval_dataset=held_out,
            processing_class=tokenizer,
            data_collator=collator,
        )
    if config.packing:
        refuse_leaks(trainer.model, trainer.data_collator, job.where)
    else:
        leave_padding_out(trainer.model)
    return add_callbacks(trainer, job)
