"""REINFORCE with a leave-one-out baseline, by TRL's trainer (arXiv:2402.14740): several answers a prompt, each judged
against the mean of the others, and no critic."""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.rl.loop import TrainerInputs, attach_reward_models, train_on_rewards


def make(job: Job) -> dict[str, Any]:
    from trl import RLOOConfig

    return train_on_rewards(job, RLOOConfig, trainer_of)


def trainer_of(inputs: TrainerInputs) -> Any:
    from trl import RLOOTrainer

    attach_reward_models(inputs)
    return RLOOTrainer(**inputs.trl_arguments())
