"""The only file that touches private names of TRL and transformers (both are pinned)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from trl import DPOTrainer


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the trainer's model, adapters included, without training a step."""
    trainer._load_from_checkpoint(str(checkpoint))


def attention_of(model: Any) -> str:
    """The attention implementation that a loaded model runs: eager, sdpa, flash_attention_2, …"""
    return str(model.config._attn_implementation)


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
        import torch

        inputs = self._prepare_inputs(self.data_collator(rows))
        model: Any = self.model
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self._compute_loss(model, inputs, return_outputs=False).item()
        model.train(was_training)
        metrics = {name: values[-1] for name, values in self._metrics["eval"].items()}
        self._metrics["eval"].clear()
        return {**metrics, "loss": loss}
