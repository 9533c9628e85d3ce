"""Group relative policy optimisation, by TRL's trainer (arXiv:2402.03300): several answers a prompt, each judged
against the mean and the spread of all of them, and no critic."""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.rl.loop import TrainerInputs, attach_reward_models, train_on_rewards


def make(job: Job) -> dict[str, Any]:
    from trl import GRPOConfig

    return train_on_rewards(job, GRPOConfig, trainer_of)


def trainer_of(inputs: TrainerInputs) -> Any:
    from trl import GRPOTrainer

    attach_reward_models(inputs)
    return GRPOTrainer(**inputs.trl_arguments())
