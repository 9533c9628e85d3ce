"""The trainer of BLIP-2's first stage."""

from __future__ import annotations

from typing import Any

from ft.models.qformer import QFormerLosses
from ft.training.measured_trainer import MeasuredTrainer


class QFormerTrainer(MeasuredTrainer):
    """The sum of the three losses, each measured by itself."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.model_accepts_loss_kwargs = False  # a loss of pairs: each micro-batch is one by itself
        losses: QFormerLosses = model.losses(**inputs)
        means = {
            "contrast": losses.contrast,
            "matching": losses.matching,
            "generation": losses.generation,
            "matched": losses.matched,
            "found": losses.found,
        }
        detached = {name: values.detach() for name, values in means.items()}
        self.measure(detached, tokens=inputs["attention_mask"].sum())
        return (losses.total, {}) if return_outputs else losses.total
