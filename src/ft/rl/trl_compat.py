"""What TRL's RLOO and GRPO trainers lack: their answers one by one for listeners, and batches that outlast a kill.

Like training/trl_compat.py, the file touches private names (TRL is pinned).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ft.encode.conversation import Renderer
from ft.rl.reward import RewardedAnswer
from ft.rl.rollout_batch import PromptSampler
from ft.rl.rollout_checkpoint import RolloutCheckpoint
from ft.rl.rollout_log import Rollout, RolloutListener, summary


def listen_to_rollouts(
    trainer: Any,
    renderer: Renderer,
    newest_answers: Callable[[], Sequence[RewardedAnswer]],
    listeners: Sequence[RolloutListener],
) -> None:
    """Let the trainer ask in our renderer's tokens, and let listeners get every batch of answers. `newest_answers` are
    those that the reward function scored last."""
    hook = RolloutHook(trainer, newest_answers, listeners)
    trainer._generate_and_score_completions, trainer.evaluate = hook.generate_and_score, hook.evaluate
    trainer._get_per_token_logps_and_entropies = hook.logprobs
    trainer._tokenize_prompts = lambda prompts: ([renderer.prompt(messages) for messages in prompts], None, {})


class RolloutHook:
    """Around the methods by which a trainer of TRL scores a batch, passes it through a model, and evaluates.

    Held-out answers have random numbers of their own, so that when a run evaluates does not change what it learns.
    """

    def __init__(
        self,
        trainer: Any,
        newest_answers: Callable[[], Sequence[RewardedAnswer]],
        listeners: Sequence[RolloutListener],
    ):
        self.trainer, self.newest_answers, self.listeners = trainer, newest_answers, listeners
        self.trl_score, self.trl_evaluate = trainer._generate_and_score_completions, trainer.evaluate
        self.trl_logprobs = trainer._get_per_token_logps_and_entropies
        self.passes: list[Tensor] = []  # log-probabilities (R, C) that TRL computed while it scored this batch

    def logprobs(self, *args: Any, **options: Any) -> Any:
        passed = self.trl_logprobs(*args, **options)
        if not torch.is_grad_enabled():  # while scoring; passes with gradients are the training step's
            self.passes.append(passed[0])
        return passed

    def generate_and_score(self, inputs: list[dict[str, Any]]) -> Any:
        mode = "train" if self.trainer.model.training else "eval"
        self.passes.clear()
        output = self.trl_score(inputs)
        batch = gather_object(self._rollouts(inputs, output))
        for name, value in summary(batch).items():
            self.trainer._metrics[mode][name].append(value)
        for listener in self.listeners:
            listener(mode, self.trainer.state.global_step, batch)
        return output

    def evaluate(self, rows: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> Any:
        with isolated_rng(self.trainer.args.seed):
            return self.trl_evaluate(rows, ignore_keys, metric_key_prefix)

    def _rollouts(self, rows: Sequence[Mapping[str, Any]], output: Mapping[str, Tensor]) -> list[Rollout]:
        """This process's answers, from what TRL has made of the rows (`output`)."""
        lengths = output["completion_mask"].sum(1).tolist()
        columns = zip(rows, self.newest_answers(), self._kl(output), lengths, strict=True)
        return [
            Rollout(row["prompt"], answer.answer, answer.reward, dict(answer.parts), kl, length, answer.ended)
            for row, answer, kl, length in columns
        ]

    def _kl(self, output: Mapping[str, Tensor]) -> list[float | None]:
        """log(policy / reference) of each answer in nats, from the passes TRL has made: of the policy, then of the
        reference. GRPO leaves out the policy's where it steps at once; it is made here then."""
        mask = output["completion_mask"]
        if not self.trainer.beta:
            return [None] * len(mask)  # TRL has loaded no reference
        *policy, reference = self.passes
        if not policy:
            input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            attention_mask = torch.cat([output["prompt_mask"], mask], dim=1)
            size = self.trainer.args.per_device_train_batch_size
            with torch.no_grad():
                policy = [self.trl_logprobs(self.trainer.model, input_ids, attention_mask, mask.shape[1], size)[0]]
        kl: list[float | None] = ((policy[0] - reference) * mask).sum(1).tolist()
        return kl


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Random numbers that begin anew, and leave those outside as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def resume_rollouts(trainer: Any) -> None:
    """Let a trainer that goes on learn from the batch of answers it had, and take prompts in the order it had.

    TRL 1.16 keeps a batch in no checkpoint, and begins the order of the first epoch again with every process.
    """
    args, accelerator, copies = trainer.args, trainer.accelerator, trainer.num_generations
    steps_per_batch = args.steps_per_generation * trainer.num_iterations
    rollouts = RolloutCheckpoint(steps_per_batch, accelerator.process_index, accelerator.num_processes)
    prompts_per_batch, rows = args.generation_batch_size // copies, len(trainer.train_dataset)
    order = PromptSampler(rows, prompts_per_batch, copies, steps_per_batch, bool(trainer.shuffle_dataset), args.seed)
    save, load = trainer._save_rng_state, trainer._load_optimizer_and_scheduler

    # The Trainer calls these two on every process, before it writes trainer_state.json, which makes a checkpoint count.
    def save_rng_state(folder: str) -> None:
        save(folder)
        rollouts.write(Path(folder), trainer._step, trainer._buffered_inputs)

    def load_optimizer_and_scheduler(checkpoint: str | None) -> None:
        load(checkpoint)
        if checkpoint:
            trainer._step, trainer._buffered_inputs = rollouts.read(Path(checkpoint), accelerator.device)

    trainer._get_train_sampler = lambda dataset=None: order
    trainer._save_rng_state, trainer._load_optimizer_and_scheduler = save_rng_state, load_optimizer_and_scheduler
