"""What ft's own trainers share: metrics as TRL's trainers log them, and held-out rows measured by the training loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ft.models.hidden_states import inner_of
from ft.training.trl_compat import BaseTrainer

if TYPE_CHECKING:
    from torch import Tensor


class MeasuredTrainer(BaseTrainer):
    """A trainer whose `compute_loss` measures each batch."""

    def __init__(self, *, model: Any, args: Any, **given: Any):
        super().__init__(model=model, args=args, **given)
        if args.gradient_checkpointing and model is not inner_of(model):  # else an adapter's input has no gradient
            model.enable_input_require_grads()
        self._metrics: Mapping[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._total_train_tokens = 0

    def measure(self, means: Mapping[str, Tensor], tokens: Tensor) -> None:
        """Note the means of a batch's numbers, each (B,), and count its `tokens`, a scalar, as read in training."""
        mode = self._mode()
        for name, values in means.items():
            self._metrics[mode][name].append(self.gathered(values).mean().item())
        if mode == "train":
            self._total_train_tokens += int(self.gathered(tokens[None]).sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def measure_share(self, name: str, part: Tensor, whole: Tensor) -> None:
        """Note a share of tokens, whose parts are counted over all processes."""
        parts, wholes = (self.gathered(count[None]).sum() for count in (part, whole))
        self._metrics[self._mode()][name].append((parts / wholes).item() if wholes else 0.0)

    def gathered(self, values: Tensor) -> Tensor:
        gathered: Tensor = self.accelerator.gather_for_metrics(values)
        return gathered

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = self._mode()
        prefix = "eval_" if mode == "eval" else ""
        logs |= {f"{prefix}{name}": sum(values) / len(values) for name, values in self._metrics[mode].items()}
        super().log(logs, start_time)
        self._metrics[mode].clear()

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"  # type: ignore[union-attr]
