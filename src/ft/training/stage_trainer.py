"""What ft asks of a trainer, whichever of TRL's or its own it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import TrainerCallback, TrainerState


class StageTrainer(Protocol):
    """A trainer of a stage, as `transformers.Trainer` has it, which knows its attributes by halves (`model | None`).

    model            as made, not as wrapped for several processes
    args             its class's arguments
    compute_loss     (model, inputs, …) → loss, or loss and outputs
    evaluation_loop  (loader, description, …) → an output whose `metrics` begin with the prefix
    log              (numbers, start_time) → nothing
    aux_loss_enabled a router's loss is added; RewardTrainer knows none
    """

    model: Any
    args: Any
    state: TrainerState
    accelerator: Accelerator
    processing_class: Any
    train_dataset: Dataset
    eval_dataset: Dataset | None
    data_collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    compute_loss: Callable[..., Any]
    evaluation_loop: Callable[..., Any]
    get_eval_dataloader: Callable[..., Any]
    log: Callable[..., None]
    aux_loss_enabled: bool

    def train(self, resume_from_checkpoint: str | None = None) -> Any: ...

    def evaluate(self) -> dict[str, float]: ...

    def save_model(self, folder: str) -> None: ...

    def add_callback(self, callback: TrainerCallback) -> None: ...

    def remove_callback(self, callback: type[TrainerCallback]) -> None: ...

    def is_world_process_zero(self) -> bool: ...
