"""Stops training at the first number that is NaN or infinite, and says at which step, in which row and in which module.

transformers puts an average in the place of such a loss (`logging_nan_inf_filter`), and goes on: the weights are NaN
from then on, and the log says 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType, gather_object, send_to_device
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft.bounds import is_finite
from ft.errors import UserError, fail
from ft.models.finite import refuse_broken_weights
from ft.training.stage_trainer import StageTrainer
from ft.training.trl_compat import wrap_gradient_norm

if TYPE_CHECKING:
    from torch.nn import Module

FIX = "Lower the learning rate, lower train.max_grad_norm, or train in another precision."
SCALED = ("grad_norm", "value/grad_norm")  # infinite at a step that fp16's gradient scaler skips, as it is made to


def stop_at_non_finite(trainer: StageTrainer, where: str) -> None:
    """Let the trainer raise UserError at the first loss, gradient or metric that is not finite."""
    check = FiniteCheck(trainer, where)
    trainer.compute_loss = check.compute_loss
    wrap_gradient_norm(trainer, check.check_gradient)
    trainer.add_callback(check)


class FiniteCheck(TrainerCallback):
    """What is checked at each micro-batch, at each step and at each log."""

    def __init__(self, trainer: StageTrainer, where: str):
        self.trainer, self.where = trainer, where
        self.loss_of = trainer.compute_loss
        self.newest: Any = None  # the inputs of the micro-batch whose loss was computed last

    def compute_loss(self, model: Module, inputs: Any, *args: Any, **options: Any) -> Any:
        self.newest = dict(inputs) if isinstance(inputs, Mapping) else inputs  # trainers take keys out
        result = self.loss_of(model, inputs, *args, **options)
        loss = result[0] if isinstance(result, tuple) else result
        if not bool(loss.detach().isfinite().all()):
            held_out = "" if self.trainer.model.training else "held-out "
            raise self.error(f"the {held_out}loss is {float(loss.detach()):.3g}", self.find_origin())
        return result

    def check_gradient(self, norm: Any) -> None:
        """`norm` is the gradient's before the optimizer's step, None where the engine keeps it to itself."""
        if norm is None or is_finite(float(norm)) or self.uses_scaler:
            return
        places = [f"it arises in {name}{self.process}" for name in self.find_gradients()[-1:]]
        raise self.error(f"the gradient is {float(norm):.3g}", "".join(gather_object(places)[:1]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (logs or {}).items():
            if isinstance(value, float) and not is_finite(value) and not (self.uses_scaler and name in SCALED):
                raise self.error(f"{name} is {value}", "")

    @property
    def uses_scaler(self) -> bool:
        return self.trainer.accelerator.scaler is not None

    def error(self, what: str, place: str) -> UserError:
        steps = self.trainer.state.global_step
        when = f"after {steps} {'step' if steps == 1 else 'steps'}"
        return fail(self.where, f"{what} {when}" + (f"; {place}" if place else ""), FIX)

    # Where it arises. One of several processes looks by itself: the others are not where it is, and end with it.

    @property
    def process(self) -> str:
        accelerator = self.trainer.accelerator
        return f" of process {accelerator.process_index}" if accelerator.num_processes > 1 else ""

    @property
    def is_cut(self) -> bool:
        """Whether a process holds a slice of the model, with which it can compute nothing by itself."""
        return self.trainer.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def find_origin(self) -> str:
        """The first module whose output is not finite, and the rows that make it so, where it is not all of them."""
        if self.is_cut:
            return ""
        with _watch(self.trainer.model) as modules:
            self.loss_again(self.newest)
        place = f"it arises in {modules[0]}{self.process}" if modules else "the output of every module is finite"
        rows = self.find_rows()
        broken = [row["where"] for row in rows if not self.is_finite_alone(row)]
        return f"{place}, at row {broken[0]}" if 0 < len(broken) < len(rows) else place

    def find_rows(self) -> list[Mapping[str, Any]]:
        """The prepared rows of the newest micro-batch, found by their tokens; packed rows have no name."""
        rows = self.trainer.train_dataset if self.trainer.model.training else self.trainer.eval_dataset
        newest = self.newest
        if rows is None or "where" not in rows.column_names:
            return []
        if not isinstance(newest, Mapping) or "attention_mask" not in newest:
            return []
        batch = zip(newest["input_ids"], newest["attention_mask"].bool(), strict=True)
        sequences = {tuple(ids[mask].tolist()) for ids, mask in batch}
        return [row for row in rows if sequences.issuperset(_sequences(row))]

    def is_finite_alone(self, row: Mapping[str, Any]) -> bool:
        inputs = send_to_device(self.trainer.data_collator([row]), self.trainer.accelerator.device)
        return bool(self.loss_again(inputs).isfinite().all())

    def loss_again(self, inputs: Any) -> Tensor:
        with _by_itself(self.trainer.accelerator):
            result = self.loss_of(self.trainer.model, dict(inputs) if isinstance(inputs, Mapping) else inputs)
        loss: Tensor = result[0] if isinstance(result, tuple) else result
        return loss

    def find_gradients(self) -> list[str]:
        """Parameters whose gradient from the newest micro-batch is not finite, in the order of the forward pass; the
        backward pass meets the last of them first."""
        if self.is_cut:
            return []
        model = self.trainer.model
        model.zero_grad()  # what was clipped by a norm of NaN is NaN everywhere
        self.loss_again(self.newest).backward()
        gradients = ((name, value.grad) for name, value in model.named_parameters())
        return [name for name, gradient in gradients if gradient is not None and not bool(gradient.isfinite().all())]


@contextmanager
def _by_itself(accelerator: Any) -> Iterator[None]:
    """Without waiting for other processes, from which a trainer of TRL gathers its metrics."""
    if accelerator.num_processes == 1:
        yield
        return
    gathers = ("gather", "gather_for_metrics")
    accelerator.__dict__.update(dict.fromkeys(gathers, lambda values, *options: values))
    try:
        yield
    finally:
        for name in gathers:
            del accelerator.__dict__[name]


@contextmanager
def _watch(model: Module) -> Iterator[list[str]]:
    """Names of the modules whose output is not finite, in the order they compute; a part computes before the whole."""
    names: list[str] = []

    def hook_of(name: str) -> Callable[[Module, Any, Any], None]:
        def hook(module: Module, inputs: Any, output: Any) -> None:
            if not all(bool(value.isfinite().all()) for value in _tensors(output)):
                names.append(name)

        return hook

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in model.named_modules() if name]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))


def _sequences(row: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The token ids a prepared row puts into a batch: its own, or those of both sides of a pair."""
    if "input_ids" in row:
        return [tuple(row["input_ids"])]
    return [(*row["prompt_ids"], *row[f"{side}_ids"]) for side in ("chosen", "rejected")]


def refuse_broken_result(model: Module, where: str, steps: int) -> None:
    """Raises UserError where the weights that a stage is about to leave are not finite."""
    refuse_broken_weights(model, where, f"after {steps} steps the weights hold", FIX)
