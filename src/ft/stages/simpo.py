"""Simple preference optimisation on prepared pairs, whole, by LoRA or by QLoRA (arXiv:2405.14734).

It has no reference: an answer's reward is its mean log-probability a token, times `beta`, and the chosen one's is to be
higher by `simpo_gamma` (eq. 6). The block is TRL's CPOConfig, of whose losses this is one.
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
    from trl.experimental.cpo import CPOConfig

    from ft.training.dpo.reference_free import trainer_without_reference
    from ft.training.trl_compat import simpo_losses

    return trainer_without_reference(job, CPOConfig, simpo_losses, loss_type="simpo")
