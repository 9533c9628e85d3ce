"""The file that touches private names of TRL and transformers (both are pinned); _trl_answers.py touches those of TRL's
trainers that sample."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput
from trl import DPOTrainer, RewardTrainer, RLOOTrainer
from trl.kernels.chunked_logprob import _use_triton
from trl.trainer import utils

from ft.data.pairs import SAFETY
from ft.files import read_json, write_json
from ft.models.actors import CRITIC, Actors
from ft.models.score import batch_scores
from ft.trainers.lengths import LengthGroups
from ft.trainers.ppo_rollouts import Prompts, Rollouts
from ft.trainers.reward import safety_loss


def score_supervised_only() -> None:
    """From now on TRL's fused head scores supervised positions alone on a CPU too, as it does where Triton is.

    Elsewhere TRL 1.16 scores every position and masks afterwards, so that tiles keep their shape on compilers that
    would compile anew; a CPU has no such compiler. Loss and gradients are the same up to rounding.
    """
    utils._use_triton = lambda device: device.type == "cpu" or _use_triton(device)


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the trainer's model, adapters included, without training a step."""
    trainer._load_from_checkpoint(str(checkpoint))


def attention_of(model: Any) -> str:
    """The attention implementation that a loaded model runs: eager, sdpa, flash_attention_2, …"""
    return str(model.config._attn_implementation)


def group_by_whole_batch(trainer: Any, processes: int) -> None:
    """Let `train_sampling_strategy: group_by_length` mean the same on any number of processes.

    transformers 5.23 groups by one process's share of a step, and lets each process draw the order by itself: from the
    second epoch on they no longer agree whose rows are whose.
    """
    args, rows = trainer.args, trainer.train_dataset
    if args.train_sampling_strategy == "group_by_length":
        batch = args.train_batch_size * args.gradient_accumulation_steps * processes
        lengths = rows[args.length_column_name][:]
        trainer._get_train_sampler = lambda dataset=None: LengthGroups(lengths, batch, args.seed)


class TokenCount(TrainerCallback, ExportableState):
    """Carries the count of trained tokens over an interruption, inside the checkpoint; TRL 1.16 begins at 0 again."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"tokens": self.trainer._total_train_tokens}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept: Any = state.stateful_callbacks  # a list of callbacks at first, a dict of what they said ever after
        saved = kept["TokenCount"]
        self.trainer._total_train_tokens = saved["attributes"]["tokens"]


class PairTrainer(DPOTrainer):
    """TRL's DPOTrainer on pairs that are ids already; `shares` lets a pair's prompt go through the model once."""

    shares = False

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset  # prepared before the trainer: TRL would render anew, and drop long prompts in silence

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Columns `ref_chosen_logps`, `ref_rejected_logps`, computed once and kept in the stage's folder."""
        from ft.trainers.reference import with_reference

        return with_reference(self, dataset, name, batch_size)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The policy alone: a reference that no file holds comes anew from what the stage starts from, always."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            shutil.rmtree(Path(output_dir or str(self.args.output_dir)) / "ref", ignore_errors=True)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(model, self._shared(inputs), return_outputs)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return super().compute_ref_log_probs(model, self._shared(inputs))

    def _shared(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "pairs": True} if self.shares else inputs

    def read_reference_from_rows(self) -> None:
        """From now on the reference is the rows' own columns, and no forward of it happens."""
        self.precompute_ref_logps = True

    def measured(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """TRL's own metrics and `loss` of these pairs, without a gradient and without entering the log."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        model: Any = self.model
        was_training = model.training
        model.eval()
        # before training nothing has wrapped the policy in autocast, which the reference computes in already
        with torch.no_grad(), self.accelerator.autocast():
            loss = self._compute_loss(model, inputs, return_outputs=False).item()
        model.train(was_training)
        metrics = {name: values[-1] for name, values in self._metrics["eval"].items()}
        self._metrics["eval"].clear()
        return {**metrics, "loss": loss}


class ScoreTrainer(RewardTrainer):
    """TRL's RewardTrainer on pairs that are ids already.

    shares         a pair's prompt goes through the model once
    safety_weight  of the auxiliary safety loss; rows then bring `safety_chosen`, `safety_rejected`
    warmup_least   steps of warm-up at least, whatever share of the run `warmup_steps` is
    """

    shares = False
    safety_weight = 0.0
    warmup_least = 0

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset  # prepared before the trainer: TRL would render anew, and drop long rows in silence

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["prompt_ids", "chosen_ids", "rejected_ids", "margin", *SAFETY]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.args.warmup_steps = max(self.warmup_least, self.args.get_warmup_steps(num_training_steps))
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        safe = inputs.pop("safe", None)
        given = {**inputs, "pairs": True} if self.shares else inputs
        loss, outputs = super().compute_loss(model, given, return_outputs=True)
        mode = "train" if self.model.training else "eval"  # type: ignore[union-attr]
        self._pairs[mode].append(len(outputs.logits) // 2)
        if self.safety_weight:
            auxiliary = safety_loss(outputs.logits[:, 0], safe)
            loss = loss + self.safety_weight * auxiliary
            mean = self.accelerator.gather_for_metrics(auxiliary.detach()).mean().item()
            self._metrics[mode]["safety_loss"].append(mean)
        return (loss, outputs) if return_outputs else loss

    @cached_property
    def _pairs(self) -> dict[str, list[int]]:
        """Pairs of each batch since the last log."""
        return {"train": [], "eval": []}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As TRL logs, but a batch counts by its pairs: the last one of an evaluation is smaller."""
        mode = "train" if self.model.training else "eval"  # type: ignore[union-attr]
        pairs = self._pairs[mode]
        for name, values in self._metrics[mode].items():
            if len(values) == len(pairs) and name not in ("min_reward", "max_reward"):
                mean = sum(value * count for value, count in zip(values, pairs, strict=True)) / sum(pairs)
                self._metrics[mode][name] = [mean]
        pairs.clear()
        super().log(logs, start_time)

    def scores(self, rows: list[list[int]]) -> list[float]:
        """What the model as it stands gives rows of ids, one batch; every process takes part."""
        model: Any = self.model_wrapped
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():  # also before training, which alone wraps the model in it
            found = batch_scores(model, rows)
        model.train(was_training)
        return found


class RolloutTrainer(RLOOTrainer):
    """TRL's RLOOTrainer with the middle taken out: who answers, what an answer is worth and what is learnt from it is
    the subclass's matter (`collect`, `loss`, `measure`), in public names.

    Kept of TRL: the `ref` adapter, the fused head, reward functions, the data loader that repeats a batch of prompts,
    metrics, checkpoints. `rollouts` is the batch being learnt from, `collected` counts such batches.
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
    collected = 0

    def collect(self, rows: list[dict[str, Any]]) -> Rollouts:
        """The answers to this process's rows and to all others', ready to learn from."""
        raise NotImplementedError

    def loss(self, wrapped: Any, rollouts: Rollouts, step: int) -> Any:
        """The policy's loss at this micro-step of the batch; the critic's gradients are made here."""
        raise NotImplementedError

    def measure(self, rows: Any) -> dict[str, float]:
        """Metrics of held-out prompts, the same on all processes."""
        raise NotImplementedError

    def extra_state(self) -> dict[str, Any]:
        raise NotImplementedError

    def take_extra_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    # Metrics and reward functions

    def note(self, mode: str, values: Mapping[str, float]) -> None:
        """Metrics for the next log, which shows their mean since the last."""
        for name, value in values.items():
            self._metrics[mode][name].append(value)

    def valued(self, rows: list[dict[str, Any]], texts: Sequence[str], ids: Sequence[list[int]]) -> Tensor:
        """What the reward functions give everyone's answers, (R, F), NaN where one does not apply."""
        prompts = [row["prompt"] for row in rows]
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        return self._calculate_rewards(rows, prompts, completions, list(ids))

    def remember(self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], columns: Mapping[str, Tensor]) -> None:
        """Keep everyone's answers, with one number (R,) a column, until the next batch: for `samples`, and for TRL's
        table (`log_completions`)."""
        self._logs["prompt"].extend(gather_object([row["prompt"] for row in rows]))
        said = [[{"role": "assistant", "content": text}] for text in texts]
        self._logs["completion"].extend(gather_object(said))
        for name, values in columns.items():
            self._logs["rewards"][name].extend(values.tolist())
        self._logs["advantages"].extend(columns["advantage"].tolist())

    def samples(self) -> list[dict[str, Any]]:
        """The last batch's answers: `prompt`, `completion`, and the numbers that were kept of each."""
        columns = {name: list(values) for name, values in self._logs["rewards"].items()}
        rows = zip(self._logs["prompt"], self._logs["completion"], strict=True)
        return [
            {"prompt": prompt, "completion": said, **{name: values[n] for name, values in columns.items()}}
            for n, (prompt, said) in enumerate(rows)
        ]

    # The loop

    @property
    def steps_per_batch(self) -> int:
        """Micro-steps that learn from one batch of answers."""
        return int(self.args.steps_per_generation) * int(self.num_iterations)

    def _get_train_sampler(self, dataset: Any = None) -> Prompts:
        copies = int(self.num_generations)
        rows = self.train_dataset if dataset is None else dataset
        batch = self.args.generation_batch_size // copies
        return Prompts(len(rows), batch, copies, self.steps_per_batch, bool(self.shuffle_dataset), self.args.seed)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.rollouts is None or self._step % self.steps_per_batch == 0:
            self.rollouts = self.collect(generation_batch)
            self.collected += 1
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
        self.note("train", {"value/grad_norm": float(norm)})
        return self.accelerator.clip_grad_norm_(policy, self.args.max_grad_norm)

    def create_optimizer(self, model: Any = None) -> Any:
        """One optimizer for both; the critic's groups have its own step size."""
        if self.optimizer is not None:
            return self.optimizer
        critic = self.actors.critic_parameters()
        for value in critic:
            value.requires_grad_(True)
        optimizer: Any = super().create_optimizer(model)
        known = {id(value) for value in critic}
        for group in list(optimizer.param_groups):
            theirs = [value for value in group["params"] if id(value) in known]
            group["params"] = [value for value in group["params"] if id(value) not in known]
            if theirs:
                optimizer.add_param_group({**group, "params": theirs, "lr": group["lr"] * self.args.critic_lr_factor})
        for value in critic:
            value.requires_grad_(False)  # until it acts: DDP, which is made next, shall not wait for its gradients
        return optimizer

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The policy, and the critic in a folder of its own; whom no file holds comes anew from its stage."""
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
            state = {"step": self._step, "collected": self.collected, **self.extra_state()}
            write_json(Path(output_dir) / "ppo.json", state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        state = read_json(Path(checkpoint) / "ppo.json") if checkpoint else None
        if checkpoint and state:
            self._step, self.collected = state.pop("step"), state.pop("collected")
            self.take_extra_state(state)
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
