"""REINFORCE with a leave-one-out baseline, by TRL's trainer (arXiv:2402.14740): several answers a prompt, each judged
against the mean of the others, and no critic."""

from __future__ import annotations

from typing import Any

from ft.recipe.job import Job
from ft.rl.loop import Ready, reinforce, seat_judges


def make(job: Job) -> dict[str, Any]:
    from trl import RLOOConfig

    return reinforce(job, RLOOConfig, trainer_of)


def trainer_of(ready: Ready) -> Any:
    from trl import RLOOTrainer

    seat_judges(ready)
    return RLOOTrainer(**ready.given())
