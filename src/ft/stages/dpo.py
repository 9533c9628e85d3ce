"""Direct preference optimisation on prepared pairs, whole, by LoRA or by QLoRA (arXiv:2305.18290).

The reference is the policy as the stage begins; see `ft.training.dpo.against_reference`.
"""

from __future__ import annotations

from typing import Any

from ft.encode.prepare import eval_rows, train_rows
from ft.recipe.job import Job
from ft.training.loop import arguments, evaluation_has_rows, train_on_preferences

ADVICE = "Lower the learning rate, raise beta, or add the loss 'sft'."


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_on_preferences(trainer_of(job), job)


def trainer_of(job: Job) -> Any:
    """The trainer, its reference proven to be the policy it starts from."""
    from trl import DPOConfig

    from ft.training.dpo.against_reference import trainer_against_reference
    from ft.training.dpo.reference import pairs_of
    from ft.training.trl_compat import PairTrainer

    assert job.rows is not None
    held_out, rows = pairs_of(eval_rows(job.rows)), pairs_of(train_rows(job.rows))
    evaluation_has_rows(job, held_out)
    config = arguments(job, DPOConfig, max_length=None)  # rows fit already; TRL would cut answers
    return trainer_against_reference(job, PairTrainer, config, rows, held_out, ADVICE)
