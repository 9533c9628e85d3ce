"""What reinforcement stages share: prompts, rewards, guards, rollouts in a file, and what is left at the end.

A kind is a file with its trainer: see rloo.py. All of them learn from `reward.reward` answers to prompts, sample with
the policy as it stands, and keep the checkpoint with the best held-out reward.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ft.data.chat import Renderer
from ft.models.load import adapters_kept
from ft.stages.asked import PromptOptions, Prompts, budget, dataset, read_prompts
from ft.stages.job import Job
from ft.stages.pictures import learning_curves
from ft.stages.rewarded import Reward, RewardedOptions, check_rewards
from ft.stages.scoring import check_columns
from ft.stages.training import METRICS, arguments, evaluation_has_rows, last_values, policy, save, train, watched

log = logging.getLogger(__name__)

SHOWN = {
    "reward": "reward",
    "answers/kl": "kl",
    "answers/length": "tokens",
    "eval_reward": "held-out reward",
    "eval_answers/kl": "kl",
}
ENDS = {"reward": "reward", "answers/kl": "kl", "answers/length": "length"}


@dataclass(frozen=True)
class Ready:
    """Everything a trainer is made of: its arguments, the policy, datasets for TRL, and what rewards."""

    job: Job
    config: Any
    model: Any
    tokenizer: Any
    rows: Any
    held_out: Any
    reward: Reward

    def given(self) -> dict[str, Any]:
        """As TRL's trainers of sampled answers take them."""
        return {
            "model": self.model,
            "reward_funcs": [self.reward],
            "args": self.config,
            "train_dataset": self.rows,
            "eval_dataset": self.held_out,
            "processing_class": self.tokenizer,
        }


def reinforce(job: Job, config: type, trainer_of: Callable[[Ready], Any]) -> dict[str, Any]:
    """Train with the trainer that `trainer_of` makes; leave a folder that `from_pretrained` opens, its curves, and
    rollouts.jsonl; return the numbers for done.json."""
    ready, prompts = _ready(job, config)
    with adapters_kept(ready.model) if "lora" in job.blocks else nullcontext():
        trainer = trainer_of(ready)
    guard = _watch(trainer, ready)
    if trainer.is_world_process_zero():
        _say_what_is_learnt(ready, prompts)
    numbers: dict[str, Any] = {"steps": train(trainer, job)}
    save(trainer, job)
    if trainer.is_world_process_zero():
        shutil.rmtree(job.folder / "ref", ignore_errors=True)
        numbers |= _end(trainer, job, guard.options.kl) | prompts.counts
    return numbers


def _ready(job: Job, config: type) -> tuple[Ready, Prompts]:
    options, rewarded = PromptOptions(**job.block("rows")), RewardedOptions(**job.block("reward"))
    check_rewards(job, rewarded)
    args = arguments(job, config)
    model, tokenizer = policy(job, args)
    renderer = Renderer(tokenizer)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = budget(options, positions, args.max_completion_length, job.where)
    prompts = read_prompts(job, options, renderer, longest, lambda columns: check_columns(rewarded.rewards, columns))
    rows = dataset(prompts.train, 0)
    held_out = dataset(prompts.held_out, len(prompts.train)) if prompts.held_out else None
    evaluation_has_rows(job, held_out)
    asked, size = [*prompts.train, *prompts.held_out], args.per_device_eval_batch_size
    reward = Reward(job.inputs, rewarded, asked, renderer.stop_ids, size)
    return Ready(job, args, model, tokenizer, rows, held_out, reward), prompts


def _whole_batches(args: Any, name: str) -> None:
    """Say where a checkpoint would fall between two uses of a batch of answers: a resumed run draws new ones there."""
    uses = args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps
    if args.save_strategy == "steps" and uses > 1 and args.save_steps % uses:
        text = "%s: answers are used for %d steps, and checkpoints come every %g: an interrupted run would go on with"
        log.warning(text + " other answers. Let save_steps be a multiple of %d", name, uses, args.save_steps, uses)


def _watch(trainer: Any, ready: Ready) -> Any:
    from ft.trainers._trl import watch_answers
    from ft.trainers.callbacks import PolicyAlone
    from ft.trainers.ppo import PPOTrainer
    from ft.trainers.rollouts import Guard, GuardOptions, RolloutFile

    job = ready.job
    options = GuardOptions(**job.block("guard"))
    guard = Guard(
        options, ready.config.max_completion_length, job.where, lambda text: log.warning("%s: %s", job.name, text)
    )
    file = RolloutFile(job.folder / "rollouts.jsonl", options.kept, options.shown, job.name)
    saw = [guard.saw, file.saw] if trainer.is_world_process_zero() else [guard.saw]
    if isinstance(trainer, PPOTrainer):
        trainer.saw = saw
    else:
        _whole_batches(trainer.args, job.name)
        watch_answers(trainer, Renderer(ready.tokenizer), lambda: ready.reward.told, saw)
    watched(trainer, job, SHOWN)
    for callback in (guard, file, PolicyAlone()):
        trainer.add_callback(callback)
    return guard


def _say_what_is_learnt(ready: Ready, prompts: Prompts) -> None:
    """One line before the first step: from what, for what."""
    parts = [f"the reward model '{axis}'" for axis in ready.reward.models]
    parts += [f"{weight:g} × {name}" for name, weight in ready.reward.options.rewards.items() if weight]
    counts = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in prompts.counts.items() if count)
    if not ready.config.beta and ready.job.kind != "ppo":
        log.warning("%s: beta is 0, so there is no reference, and nothing watches guard.kl", ready.job.name)
    print(f"{ready.job.name}: rewarded by {' + '.join(parts)}; {counts}", file=sys.stderr)


def _end(trainer: Any, job: Job, bound: float | None) -> dict[str, Any]:
    """What became of reward, distance and length; held out and of the checkpoint that is kept, where that is known."""
    from ft.files import read_lines

    lines = read_lines(job.folder / METRICS)
    learning_curves(lines, job.folder / "learning.png", job.name, bound)
    kept = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    held_out = [line for line in lines if "eval_reward" in line]
    numbers: dict[str, Any] = {"kept_step": kept} if kept else {}
    if held_out:
        last = next((line for line in held_out if line["step"] == kept), held_out[-1])
        numbers |= _ends(held_out[0], last, "eval_")
    else:
        rewarded = [line for line in lines if "reward" in line]
        numbers |= _ends(rewarded[0], rewarded[-1], "") if rewarded else {}
    return numbers | last_values(lines, {"value/explained_variance": "explained_variance"})


def _ends(first: Mapping[str, Any], last: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in ENDS.items():
        if prefix + key in last:
            found |= {f"{name}_first": first.get(prefix + key), name: last[prefix + key]}
    return found
