"""Kahneman-Tversky optimisation on prepared answers that are labelled as wanted or not (arXiv:2402.01306).

The reference is the policy as the stage begins; see `ft.training.dpo.against_reference`.
"""

from __future__ import annotations

import logging
from typing import Any

from ft.encode.prepare import eval_rows, train_rows
from ft.recipe.job import Job
from ft.training.loop import arguments, evaluation_has_rows, train_on_preferences

log = logging.getLogger(__name__)

ADVICE = "Lower the learning rate, raise beta, or raise desirable_weight."


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_on_preferences(trainer_of(job), job)


def trainer_of(job: Job) -> Any:
    """The trainer, its reference proven to be the policy it starts from, its rows in the order they are trained in."""
    from trl import KTOConfig

    from ft.training.dpo.against_reference import trainer_against_reference
    from ft.training.dpo.unpaired import arrange_rows, check_labels
    from ft.training.trl_compat import UnpairedTrainer

    assert job.rows is not None
    held_out, rows = eval_rows(job.rows), train_rows(job.rows)
    evaluation_has_rows(job, held_out)
    config = arguments(job, KTOConfig, max_length=None)  # rows fit already; TRL would cut answers
    if words := check_labels(rows["label"][:], config, job.where):
        log.warning("%s: %s", job.where, words)
    longest = job.block("train")["max_length"]
    rows = arrange_rows(rows, job.seed, config.per_device_train_batch_size, longest, config.loss_type)
    if held_out is not None:
        held_out = arrange_rows(held_out, job.seed, config.per_device_eval_batch_size, longest, config.loss_type)
    return trainer_against_reference(job, UnpairedTrainer, config, rows, held_out, ADVICE)
