"""The trainer of rows that are one sequence read from left to right: TRL's own."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ft.families import Family
from ft.models.adapters import adapters_kept
from ft.recipe.job import Job


def make_trainer(job: Job, family: Family, model: Any, tokenizer: Any, config: Any, rows: Any, held_out: Any) -> Any:
    """An SFTTrainer on prepared rows, packed or padded; of a batch it computes only what is needed."""
    from trl import SFTTrainer

    from ft.training.packing import refuse_leaks
    from ft.training.padding_free import leave_padding_out
    from ft.training.trl_compat import score_supervised_only

    score_supervised_only()
    flat = config.packing or config.padding_free  # TRL flattens rows by a collator of its own
    collator = None if flat else family.collator(tokenizer.pad_token_id, config.pad_to_multiple_of)
    with adapters_kept(model) if "lora" in job.blocks else nullcontext():
        trainer: Any = SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            data_collator=collator,
        )
    if config.packing:
        refuse_leaks(trainer.model, trainer.data_collator, job.where)
    else:
        leave_padding_out(trainer.model)
    return trainer
