"""What TRL's RLOO and GRPO trainers lack; like _trl.py, it touches their private names (TRL is pinned)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ft.data.chat import Renderer
from ft.trainers.halfway import Halfway
from ft.trainers.ppo_rollouts import Prompts
from ft.trainers.rollouts import Saw, Watch


def watch_answers(trainer: Any, renderer: Renderer, told: Callable[[], Sequence[Any]], saw: Sequence[Saw]) -> None:
    """Let the trainer ask in our renderer's tokens, and show `saw` every batch of answers with what is `told` of
    them."""
    score, logps = trainer._generate_and_score_completions, trainer._get_per_token_logps_and_entropies
    watch = Watch(trainer, score, logps, trainer.evaluate, trainer._metrics, told, saw)
    trainer._generate_and_score_completions, trainer.evaluate = watch.scored, watch.evaluated
    trainer._get_per_token_logps_and_entropies = watch.passed
    trainer._tokenize_prompts = lambda prompts: ([renderer.prompt(messages) for messages in prompts], None, {})


def go_on_with_answers(trainer: Any) -> None:
    """Let a trainer that goes on learn from the batch of answers it had, and take prompts in the order it had.

    TRL 1.16 keeps a batch in no checkpoint, and begins the order of the first epoch again with every process.
    """
    args, accelerator, copies = trainer.args, trainer.accelerator, trainer.num_generations
    uses = args.steps_per_generation * trainer.num_iterations
    halfway = Halfway(uses, accelerator.process_index, accelerator.num_processes)
    asked, rows = args.generation_batch_size // copies, len(trainer.train_dataset)
    prompts = Prompts(rows, asked, copies, uses, bool(trainer.shuffle_dataset), args.seed)
    save, load = trainer._save_rng_state, trainer._load_optimizer_and_scheduler

    def saved(folder: str) -> None:
        save(folder)
        halfway.write(Path(folder), trainer._step, trainer._buffered_inputs)

    def loaded(checkpoint: str | None) -> None:
        load(checkpoint)
        if checkpoint:
            trainer._step, trainer._buffered_inputs = halfway.read(Path(checkpoint), accelerator.device)

    trainer._get_train_sampler = lambda dataset=None: prompts
    trainer._save_rng_state, trainer._load_optimizer_and_scheduler = saved, loaded
