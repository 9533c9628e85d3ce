"""Proximal policy optimisation with a critic (arXiv:1707.06347; the objective of arXiv:2307.09288, section 3.2.3).

With `lora:` policy, reference, critic and reward models are adapters on one base; without it they are whole models.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.models.device import compute_dtype
from ft.models.lineage import base_of, is_adapter
from ft.models.load import load_scorer, start
from ft.recipe.job import Job
from ft.rl.loop import TrainerInputs, train_on_rewards

if TYPE_CHECKING:
    from transformers import TrainingArguments


def make(job: Job) -> dict[str, Any]:
    from ft.rl.ppo_config import PPOConfig

    return train_on_rewards(job, PPOConfig, trainer_of)


def trainer_of(inputs: TrainerInputs) -> Any:
    from ft.rl.ppo import PPOTrainer

    rewards = inputs.reward.options.rewards
    inputs.config.reward_weights = list(rewards.values()) or None
    inputs.config.safety_threshold = inputs.reward.options.safety_threshold
    functions = [inputs.reward.function(name) for name in rewards]
    actors = (_adapters if "lora" in inputs.job.blocks else _models)(inputs)
    return PPOTrainer(actors, functions, inputs.config, inputs.rows, inputs.held_out, where=inputs.job.where)


def _adapters(inputs: TrainerInputs) -> Any:
    from ft.rl.actor_setup import share_base

    job = inputs.job
    base, parent = base_of(job.model, job.init)
    return share_base(
        inputs.model,
        Renderer(inputs.tokenizer),
        base=base,
        quantization=job.blocks.get("quantization"),
        fresh=parent is None,
        critic=job.inputs.get("critic"),
        rewards=inputs.reward.models,
    )


def _models(inputs: TrainerInputs) -> Any:
    from ft.rl.actor_setup import separate_models

    job, config = inputs.job, inputs.config
    reference = start(job.model, job.init, None, None, compute_dtype(config), config.use_cpu)
    critic = _critic(job, config, job.inputs.get("critic"))
    return separate_models(
        inputs.model, Renderer(inputs.tokenizer), reference=reference, critic=critic, rewards=inputs.reward.models
    )


def _critic(job: Job, config: TrainingArguments, folder: Path | None) -> Any:
    """A whole model with a scalar head: the reward model in `folder`, else the policy under a head of zeros."""
    import torch

    if folder is not None:
        if is_adapter(folder):
            fix = "Name a reward model trained whole, or leave the critic out: it then begins as the policy."
            raise fail(job.where, "the critic of a whole policy is a whole model, and this input is an adapter", fix)
        return load_scorer(folder, "float32", config.use_cpu)
    critic = start(job.model, job.init, None, None, compute_dtype(config), config.use_cpu, scores=True)
    torch.nn.init.zeros_(critic.score.weight)
    return critic
