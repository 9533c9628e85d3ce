"""The file that touches private names of TRL and transformers (both are pinned); rl/trl_compat.py touches those of
TRL's trainers that sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from torch import Tensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.kernels.chunked_logprob import _use_triton
from trl.trainer import utils
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import add_fused_lm_head as add_fused_lm_head

from ft.encode.pairs import SAFETY
from ft.models.scorer import batch_scores
from ft.training.length_groups import LengthGroups
from ft.training.reward import safety_loss


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


def order_by_seed_and_epoch(trainer: Any, processes: int) -> None:
    """Let seed and epoch alone decide the order of the rows, on any number of processes and after any interruption.

    Under `train_sampling_strategy: group_by_length` transformers 5.23 draws the order from the global generator, which
    is in another state when a run is resumed, groups by one process's share of a step, and lets each process draw by
    itself: from the second epoch on they no longer agree whose rows are whose.
    """
    args, rows = trainer.args, trainer.train_dataset
    if args.train_sampling_strategy == "group_by_length":
        batch = args.train_batch_size * args.gradient_accumulation_steps * processes
        lengths = rows["length"][:] if "length" in rows.column_names else [len(ids) for ids in rows["input_ids"]]
        trainer._get_train_sampler = lambda dataset=None: LengthGroups(lengths, batch, args.seed)
    if args.dataloader_persistent_workers:
        _seed_workers_apart(trainer)


def _seed_workers_apart(trainer: Any) -> None:
    """Workers that stay draw their seed from the global generator once a run, and once more after a resume, so that
    dropout would differ from there on. Nothing that ft hands to workers is random: any seed does."""
    make_loader = trainer._get_dataloader

    def make_seeded_loader(*args: Any, **kwargs: Any) -> Any:
        loader = make_loader(*args, **kwargs)
        loader.base_dataloader.generator = torch.Generator().manual_seed(trainer.args.seed)
        return loader

    trainer._get_dataloader = make_seeded_loader


def wrap_gradient_norm(trainer: Any, check: Callable[[Any], None]) -> None:
    """Let `check` see the norm of every step's gradient before the optimizer makes the step."""
    norm_of = trainer._get_grad_norm

    def checked(model: Any, grad_norm: Any = None) -> Any:
        norm = norm_of(model, grad_norm=grad_norm)
        check(norm)
        return norm

    trainer._get_grad_norm = checked


def held_metrics(trainer: Any, mode: str) -> dict[str, list[float]]:
    """A trainer of TRL's metrics since its last log, a number a batch; `mode` is "train" or "eval"."""
    known: dict[str, dict[str, list[float]]] = trainer._metrics if _is_from_trl(trainer) else {}
    return known.get(mode, {})


BaseTrainer = _BaseTrainer
"""What all of TRL's trainers inherit from."""


def _is_from_trl(trainer: object) -> bool:
    return isinstance(trainer, _BaseTrainer)


def held_out_loader(trainer: Any, batches: Sampler[list[int]]) -> DataLoaderShard:
    """The trainer's held-out rows in these batches. It draws no random numbers, which the Trainer's own loader takes
    from those that training draws: when a run is evaluated would change what it learns."""
    rows, args = trainer._remove_unused_columns(trainer.eval_dataset, "evaluation"), trainer.args
    return DataLoaderShard(  # registered with accelerate, whose gathering would else cut by the training loader
        rows,
        batch_sampler=batches,
        collate_fn=trainer.data_collator,
        generator=torch.Generator(),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        prefetch_factor=args.dataloader_prefetch_factor,
    )


def carry_token_count(trainer: Any) -> None:
    """Let a trainer of TRL count trained tokens on over an interruption; transformers' own Trainer counts none."""
    if _is_from_trl(trainer):
        trainer.add_callback(TokenCount(trainer))


def trained_tokens(trainer: Any) -> int:
    """How many tokens a trainer of TRL has trained on in all its steps, whatever was logged; 0 of one that counts none.
    RLOO and GRPO count into the trainer's state, which checkpoints hold."""
    return int(trainer._total_train_tokens or trainer.state.num_input_tokens_seen) if _is_from_trl(trainer) else 0


def restore_token_count(trainer: Any, state: TrainerState) -> None:
    """Let a trainer count on from the state of a checkpoint; TRL 1.16 begins at 0 again."""
    callbacks: Any = state.stateful_callbacks  # a list of callbacks at first, a dict of their states ever after
    if own := callbacks.get("TokenCount"):
        trainer._total_train_tokens = own["attributes"]["tokens"]


class TokenCount(TrainerCallback, ExportableState):
    """Carries the count of trained tokens over an interruption, inside the checkpoint."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"tokens": self.trainer._total_train_tokens}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        restore_token_count(self.trainer, state)


class PreparedPreferences(BaseTrainer):
    """What TRL's trainers of preferences do with rows that are ids already, and with their reference."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset  # prepared before the trainer: TRL would render anew, and drop long prompts in silence

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """The rows with columns of the reference's log-probabilities, computed once and kept in the stage's folder."""
        from ft.training.dpo.reference import with_reference

        return with_reference(self, dataset, name, batch_size)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        _drop_saved_reference(self, output_dir)


class PairTrainer(PreparedPreferences, DPOTrainer):
    """TRL's DPOTrainer on pairs that are ids already; `shares` lets a pair's prompt go through the model once."""

    shares = False

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(model, self._mark_pairs(inputs), return_outputs)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        return super().compute_ref_log_probs(model, self._mark_pairs(inputs))

    def _mark_pairs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "pairs": True} if self.shares else inputs


class OverlappedPairTrainer(PairTrainer):
    """Its reference model is set when it is made, and is no model of this process (`training/dpo/overlapped.py`)."""

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset

    def compute_with(self, reference: Any) -> None:
        arguments: Any = self.args
        self.precompute_ref_logps = arguments.precompute_ref_log_probs = False
        self.ref_model = reference


class UnpairedTrainer(PreparedPreferences, KTOTrainer):
    """TRL's KTOTrainer on rows that are ids already.

    The reference's log-probabilities enter every batch before the loss, from the rows or computed for it, so that
    `labels/accuracies` can be measured: the share of rows whose implied reward is above the KL term (z0 of
    arXiv:2402.01306, eq. 7) where their answer is wanted, and below it where it is not.
    """

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if "ref_logps" not in inputs:
            reference = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
            inputs = {**inputs, **dict(zip(("ref_logps", "ref_KL_logps"), reference, strict=True))}
        self.precompute_ref_logps = True  # TRL then reads the two columns, wherever they come from
        passes: list[Any] = []

        def remembered(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        result = super()._compute_loss(remembered, inputs, return_outputs)
        policy = passes[int(self.calculate_KL)]  # behind that of the KL term
        metrics = self._metrics["train" if self.model.training else "eval"]  # type: ignore[union-attr]
        rewards = policy.log_probs.detach().sum(1) - inputs["ref_logps"] - metrics["kl"][-1]
        right = (torch.where(inputs["label"], rewards, -rewards) > 0).float()
        metrics["labels/accuracies"].append(self.accelerator.gather_for_metrics(right).mean().item())
        for side in ("chosen", "rejected"):  # a batch without such rows counts as none of them: see held_out.py
            for name in (f"rewards/{side}", f"logps/{side}", f"logits/{side}", "rewards/margins"):
                metrics[name] += [0.0] * (len(metrics["kl"]) - len(metrics[name]))
        return result


def orpo_losses(args: ORPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The loss of each pair (P,) by the mean log-probabilities a token of its answers, (P,) each, in nats.

    The odds ratio is TRL's function. The likelihood of the chosen answer is that of its own tokens, each pair alike, as
    arXiv:2403.07691 writes it (eq. 2 and 6); TRL's trainer counts the prompt's too, and longer answers more.
    """
    return -chosen - ORPOTrainer.odds_ratio_loss(_as_trainer(args), chosen, rejected)[0]  # type: ignore[arg-type]


def simpo_losses(args: CPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The loss of each pair, as above, by TRL's function (arXiv:2405.14734, eq. 6)."""
    return CPOTrainer.cpo_loss(_as_trainer(args), chosen, rejected)[0] - args.cpo_alpha * chosen  # type: ignore[arg-type]


def _as_trainer(args: ORPOConfig | CPOConfig) -> Any:
    """What TRL's losses ask of their trainer: its settings, and where it computes."""
    names = ("beta", "alpha", "label_smoothing", "loss_type", "simpo_gamma")
    settings = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return SimpleNamespace(**settings, accelerator=SimpleNamespace(device=args.device))


def _drop_saved_reference(trainer: Any, output_dir: str | None) -> None:
    """The policy alone is saved: a reference that no file holds comes anew from what the stage starts from, always."""
    if trainer.args.should_save:
        shutil.rmtree(Path(output_dir or str(trainer.args.output_dir)) / "ref", ignore_errors=True)


def measure_rows(trainer: PairTrainer | UnpairedTrainer, rows: list[dict[str, Any]]) -> dict[str, float]:
    """TRL's own metrics and `loss` of these rows, without a gradient and without entering the log."""
    inputs = trainer._prepare_inputs(trainer.data_collator(rows))
    model: Any = trainer.model
    was_training = model.training
    model.eval()
    # before training nothing has wrapped the policy in autocast, which the reference computes in already
    with torch.no_grad(), trainer.accelerator.autocast():
        loss = trainer._compute_loss(model, inputs, return_outputs=False).item()
    model.train(was_training)
    metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    trainer._metrics["eval"].clear()
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
        batch = {**inputs, "pairs": True} if self.shares else inputs
        loss, outputs = super().compute_loss(model, batch, return_outputs=True)
        if self.safety_weight:
            mode = "train" if self.model.training else "eval"  # type: ignore[union-attr]
            auxiliary = safety_loss(outputs.logits[:, 0], safe)
            loss = loss + self.safety_weight * auxiliary
            mean = self.accelerator.gather_for_metrics(auxiliary.detach()).mean().item()
            self._metrics[mode]["safety_loss"].append(mean)
        return (loss, outputs) if return_outputs else loss

    def scores(self, rows: list[list[int]]) -> list[float]:
        """What the model as it stands gives rows of ids, one batch; every process takes part."""
        model: Any = self.model_wrapped
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():  # also before training, which alone wraps the model in it
            scores = batch_scores(model, rows)
        model.train(was_training)
        return scores
