"""What reinforcement stages share: prompts, rewards, guards, rollouts in a file, and what is left at the end.

A kind is a file with its trainer: see rloo.py. All of them learn from `reward.reward` answers to prompts, sample with
the policy as it stands, and keep the checkpoint with the best held-out reward.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from ft import artifacts
from ft.encode.conversation import Renderer
from ft.models.adapters import adapters_kept, saved_alone
from ft.models.lineage import base_of
from ft.models.token_budget import positions_of
from ft.recipe.job import Job
from ft.rl.prompts import PromptOptions, Prompts, budget, dataset, read_prompts
from ft.rl.reward import Reward, RewardedOptions, check_rewards
from ft.training.loop import (
    add_callbacks,
    arguments,
    draw_curves,
    evaluation_has_rows,
    last_values,
    policy,
    save,
    train,
)
from ft.training.stage_trainer import StageTrainer

log = logging.getLogger(__name__)

LOG_NAMES = {
    "reward": "reward",
    "answers/kl": "kl",
    "answers/length": "tokens",
    "eval_reward": "held-out reward",
    "eval_answers/kl": "kl",
}
FINAL_NAMES = {"reward": "reward", "answers/kl": "kl", "answers/length": "length"}


@dataclass(frozen=True)
class TrainerInputs:
    """Everything a trainer is made of: its arguments, the policy, datasets for TRL, and what rewards."""

    job: Job
    config: Any
    model: Any
    tokenizer: Any
    rows: Any
    held_out: Any
    reward: Reward

    def trl_arguments(self) -> dict[str, Any]:
        """As TRL's trainers of sampled answers take them."""
        return {
            "model": self.model,
            "reward_funcs": [self.reward],
            "args": self.config,
            "train_dataset": self.rows,
            "eval_dataset": self.held_out,
            "processing_class": self.tokenizer,
        }


def train_on_rewards(job: Job, config: type, trainer_of: Callable[[TrainerInputs], Any]) -> dict[str, Any]:
    """Train with the trainer that `trainer_of` makes; leave a folder that `from_pretrained` opens, its curves, and
    rollouts.jsonl; return the numbers for done.json."""
    inputs, prompts = prepare_training(job, config)
    with adapters_kept(inputs.model) if "lora" in job.blocks else nullcontext():
        trainer = trainer_of(inputs)
    _attach_callbacks(trainer, inputs)
    if trainer.is_world_process_zero():
        _print_rewards(inputs, prompts)
    numbers: dict[str, Any] = {"steps": train(trainer, job)}
    save(trainer, job)
    if trainer.is_world_process_zero():
        numbers |= _end(trainer, job) | prompts.counts
    return numbers


def attach_reward_models(inputs: TrainerInputs) -> None:
    """Let `inputs.reward` ask the reward models: adapters on the policy's base, where they
    are such, else from models of their own."""
    from ft.rl.actor_setup import load_reward_models, score_while_training, share_base_with_reward_models

    job, renderer = inputs.job, Renderer(inputs.tokenizer)
    if "lora" in job.blocks and not inputs.config.use_vllm:  # vLLM is sent all weights that stand on the base
        base, parent = base_of(job.model, job.init)
        actors: Any = share_base_with_reward_models(
            inputs.model,
            renderer,
            base=base,
            quantization=job.blocks.get("quantization"),
            fresh=parent is None,
            rewards=inputs.reward.models,
        )
    else:
        actors = load_reward_models(inputs.model, renderer, inputs.reward.models)
    inputs.reward.score_conversations = partial(
        score_while_training, actors, batch_size=inputs.config.per_device_eval_batch_size
    )


def prepare_training(job: Job, config: type) -> tuple[TrainerInputs, Prompts]:
    """Everything a trainer is made of, and the prompts that were read."""
    options, reward_options = PromptOptions(**job.block("rows")), RewardedOptions(**job.block("reward"))
    check_rewards(job, reward_options)
    args = arguments(job, config)
    model, tokenizer = policy(job, args)
    if "lora" in job.blocks:
        saved_alone(model)
    renderer = Renderer(tokenizer)
    longest = budget(options, positions_of(model), args.max_completion_length, job.where)
    prompts = read_prompts(job, options, renderer, longest, reward_options.rewards)
    rows = dataset(prompts.train, 0)
    held_out = dataset(prompts.held_out, len(prompts.train)) if prompts.held_out else None
    evaluation_has_rows(job, held_out)
    reward = Reward(job.inputs, reward_options, [*prompts.train, *prompts.held_out], renderer.stop_ids)
    return TrainerInputs(job, args, model, tokenizer, rows, held_out, reward), prompts


def _attach_callbacks(trainer: StageTrainer, inputs: TrainerInputs) -> None:
    from ft.rl.guard import GuardOptions
    from ft.rl.monitor import Guard
    from ft.rl.ppo import PPOTrainer
    from ft.rl.rollout_log import RolloutFile
    from ft.rl.trl_compat import listen_to_rollouts, resume_rollouts

    job = inputs.job
    options = GuardOptions(**job.block("guard"))
    guard = Guard(
        options, inputs.config.max_completion_length, job.where, lambda text: log.warning("%s: %s", job.name, text)
    )
    file = RolloutFile(job.folder / artifacts.ROLLOUTS, options.kept, options.shown)
    listeners = [guard.check, file.write] if trainer.is_world_process_zero() else [guard.check]
    if isinstance(trainer, PPOTrainer):
        trainer.listeners = listeners
    else:
        resume_rollouts(trainer)
        listen_to_rollouts(trainer, Renderer(inputs.tokenizer), lambda: inputs.reward.newest, listeners)
    add_callbacks(trainer, job, LOG_NAMES)
    for callback in (guard, file):
        trainer.add_callback(callback)


def _print_rewards(inputs: TrainerInputs, prompts: Prompts) -> None:
    """One line before the first step: from what, for what."""
    from ft.rl.ppo_config import PPOConfig

    parts = [f"the reward model '{axis}'" for axis in inputs.reward.models]
    parts += [f"{weight:g} × {function}" for function, weight in inputs.reward.options.rewards.items() if weight]
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in prompts.counts.items() if count)
    if not inputs.config.beta and not isinstance(inputs.config, PPOConfig):  # PPO has a reference at any beta
        log.warning("%s: beta is 0, so there is no reference, and nothing watches guard.kl", inputs.job.name)
    print(f"{inputs.job.name}: rewarded by {' + '.join(parts)}; {counts}", file=sys.stderr)


def _end(trainer: StageTrainer, job: Job) -> dict[str, Any]:
    """What became of reward, distance and length; held out and of the checkpoint that is kept, where that is known."""
    from ft.files import read_lines

    lines = read_lines(job.folder / artifacts.METRICS)
    draw_curves(job)
    best_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    held_out = [line for line in lines if "eval_reward" in line]
    numbers: dict[str, Any] = {"kept_step": best_step} if best_step else {}
    if held_out:
        last = next((line for line in held_out if line["step"] == best_step), held_out[-1])
        numbers |= _ends(held_out[0], last, "eval_")
    else:
        training = [line for line in lines if "reward" in line]
        numbers |= _ends(training[0], training[-1], "") if training else {}
    return numbers | last_values(lines, {"value/explained_variance": "explained_variance"})


def _ends(first: Mapping[str, Any], last: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for key, name in FINAL_NAMES.items():
        if prefix + key in last:
            numbers |= {f"{name}_first": first.get(prefix + key), name: last[prefix + key]}
    return numbers
