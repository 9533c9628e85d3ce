"""Group relative policy optimisation, by TRL's trainer (arXiv:2402.03300): several answers a prompt, each judged
against the mean and the spread of all of them, and no critic."""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.rl.loop import Ready, reinforce, seat_judges


def make(job: Job) -> dict[str, Any]:
    from trl import GRPOConfig

    return reinforce(job, GRPOConfig, trainer_of)


def trainer_of(ready: Ready) -> Any:
    from trl import GRPOTrainer

    seat_judges(ready)
    return GRPOTrainer(**ready.given())
