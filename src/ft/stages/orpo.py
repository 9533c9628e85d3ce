"""Odds ratio preference optimisation on prepared pairs, whole, by LoRA or by QLoRA (arXiv:2403.07691).

It has no reference: the negative log-likelihood of the chosen answer holds the model where it is, and beside it counts
how the odds of both answers stand (eq. 6 and 7, whose lambda is `beta`).
"""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.training.loop import train_on_preferences


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_on_preferences(trainer_of(job), job)


def trainer_of(job: Job) -> Any:
    """The trainer on the stage's prepared pairs."""
    from trl.experimental.orpo import ORPOConfig

    from ft.training.dpo.reference_free import trainer_without_reference
    from ft.training.trl_compat import orpo_losses

    return trainer_without_reference(job, ORPOConfig, orpo_losses)
