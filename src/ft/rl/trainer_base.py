"""What PPO's trainer keeps of TRL's RLOOTrainer, and what it adds: a critic, resumable batches, its own evaluation.

Like the files trl_compat.py this one touches private names of TRL and transformers, which are pinned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput
from trl import RLOOTrainer

from ft.files import read_json, write_json
from ft.rl.actors import CRITIC, Actors
from ft.rl.rollout_batch import PromptSampler, Rollouts


class RolloutTrainer(RLOOTrainer):
    """TRL's RLOOTrainer without its middle: how answers are made, what they are worth and what is learnt from them is
    the subclass's matter (`collect`, `loss`, `measure`), in public names.

    Kept of TRL: the `ref` adapter, the fused head, reward functions, the data loader that repeats a batch of prompts,
    metrics, checkpoints. `rollouts` is the batch being learnt from, `batches_collected` counts such batches.
    """

    _tag_names = ["trl", "ppo"]  # noqa: RUF012
    _name = "PPO"
    _paper = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347", "citation": ""}  # noqa: RUF012

    args: Any
    train_dataset: Any
    processing_class: Any
    num_generations: Any
    _logs: Any
    actors: Actors
    rollouts: Rollouts | None = None
    batches_collected = 0

    def collect(self, rows: list[dict[str, Any]]) -> Rollouts:
        """The answers to this process's rows and to all others', ready to learn from."""
        raise NotImplementedError

    def loss(self, wrapped: torch.nn.Module, rollouts: Rollouts, step: int) -> Tensor:
        """The policy's loss at this micro-step of the batch; the critic's gradients are made here."""
        raise NotImplementedError

    def measure(self, rows: Any) -> dict[str, float]:
        """Metrics of held-out prompts, the same on all processes."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        raise NotImplementedError

    def load_extra_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    # Metrics and reward functions

    def record(self, mode: str, values: Mapping[str, float]) -> None:
        """Metrics for the next log, which shows their mean since the last."""
        for name, value in values.items():
            self._metrics[mode][name].append(value)

    def function_values(self, rows: list[dict[str, Any]], texts: Sequence[str], ids: Sequence[list[int]]) -> Tensor:
        """What the reward functions give everyone's answers, (R, F), NaN where one does not apply."""
        prompts = [row["prompt"] for row in rows]
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        return self._calculate_rewards(rows, prompts, completions, list(ids))

    def keep_samples(
        self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], columns: Mapping[str, Tensor]
    ) -> None:
        """Keep everyone's answers, with one number (R,) a column, until the next batch: for `samples`, and for TRL's
        table (`log_completions`)."""
        self._logs["prompt"].extend(gather_object([row["prompt"] for row in rows]))
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        self._logs["completion"].extend(gather_object(completions))
        for name, values in columns.items():
            self._logs["rewards"][name].extend(values.tolist())
        self._logs["advantages"].extend(columns["advantage"].tolist())

    def samples(self) -> list[dict[str, Any]]:
        """The last batch's answers: `prompt`, `completion`, and the numbers that were kept of each."""
        columns = {name: list(values) for name, values in self._logs["rewards"].items()}
        rows = zip(self._logs["prompt"], self._logs["completion"], strict=True)
        return [
            {"prompt": prompt, "completion": completion, **{name: values[n] for name, values in columns.items()}}
            for n, (prompt, completion) in enumerate(rows)
        ]

    # The loop

    @property
    def steps_per_batch(self) -> int:
        """Micro-steps that learn from one batch of answers."""
        return int(self.args.steps_per_generation) * int(self.num_iterations)

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        copies = int(self.num_generations)
        rows = self.train_dataset if dataset is None else dataset
        batch = self.args.generation_batch_size // copies
        return PromptSampler(len(rows), batch, copies, self.steps_per_batch, bool(self.shuffle_dataset), self.args.seed)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.rollouts is None or self._step % self.steps_per_batch == 0:
            self.rollouts = self.collect(generation_batch)
            self.batches_collected += 1
        return self.rollouts

    def _compute_loss(self, model: Any, inputs: Rollouts) -> Any:
        return self.loss(model, inputs, self._step % self.steps_per_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._sum_critic_gradients()
        return loss

    def _sum_critic_gradients(self) -> None:
        """DDP knows the policy alone: the critic's pass does not go through it."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [value.grad for value in self.actors.critic_parameters() if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.accelerator.reduce(flat, reduction="sum")
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _clip_grad_norm(self, model: Any) -> Any:
        """Policy and critic each by its own norm: a critic that errs must not slow the policy. Returns the policy's."""
        critic = {id(value): value for value in self.actors.critic_parameters()}
        policy = [value for value in model.parameters() if id(value) not in critic]
        norm = self.accelerator.clip_grad_norm_(critic.values(), self.args.max_grad_norm)
        self.record("train", {"value/grad_norm": float(norm)})
        return self.accelerator.clip_grad_norm_(policy, self.args.max_grad_norm)

    def create_optimizer(self, model: Any = None) -> Any:
        """One optimizer for both; the critic's groups have its own step size."""
        if self.optimizer is not None:
            return self.optimizer
        critic = self.actors.critic_parameters()
        for value in critic:
            value.requires_grad_(True)
        optimizer: Any = super().create_optimizer(model)
        critic_ids = {id(value) for value in critic}
        for group in list(optimizer.param_groups):
            of_critic = [value for value in group["params"] if id(value) in critic_ids]
            group["params"] = [value for value in group["params"] if id(value) not in critic_ids]
            if of_critic:
                lr = group["lr"] * self.args.critic_lr_factor
                optimizer.add_param_group({**group, "params": of_critic, "lr": lr})
        for value in critic:
            value.requires_grad_(False)  # until it acts: DDP, which is made next, shall not wait for its gradients
        return optimizer

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The policy, and the critic in a folder of its own. Reference and reward models come from their own stages."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        self.actors.save_policy(folder)
        self.actors.save_critic(folder / CRITIC)
        self.processing_class.save_pretrained(str(folder))
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.actors.load_policy(folder)
        self.actors.load_critic(folder / CRITIC)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """With it, before the Trainer writes its own state last: where the batch of answers stands."""
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            if self.rollouts is not None and self._step % self.steps_per_batch:
                self.rollouts.save(Path(output_dir) / "rollouts.safetensors")
            state = {"step": self._step, "collected": self.batches_collected, **self.extra_state()}
            write_json(Path(output_dir) / "ppo.json", state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        state = read_json(Path(checkpoint) / "ppo.json") if checkpoint else None
        if checkpoint and state:
            self._step, self.batches_collected = state.pop("step"), state.pop("collected")
            self.load_extra_state(state)
            file = Path(checkpoint) / "rollouts.safetensors"
            self.rollouts = Rollouts.load(file, self.accelerator.device) if file.exists() else None

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        rows = dataloader.dataset
        self.model.eval()  # type: ignore[union-attr]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure(rows).items()}
        none: Any = None
        return EvalLoopOutput(predictions=none, label_ids=None, metrics=metrics, num_samples=len(rows))
