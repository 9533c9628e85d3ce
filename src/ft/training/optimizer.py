"""Whether the optimizer of a `train:` block can be made: its class is asked before the first step."""

from __future__ import annotations

from inspect import isclass
from typing import TYPE_CHECKING

from ft.errors import fail

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

OF_THE_MODEL = ("params", "model", "optimizer_dict")
"""Arguments in which transformers hands an optimizer the model's own weights (GaLore, LOMO, layer-wise ones)."""


def try_optimizer(args: TrainingArguments, model: PreTrainedModel, where: str) -> None:
    """Raises UserError with the library's words where it does not take `optim`, `optim_args` or a number of theirs, or
    needs a package that is not installed."""
    import torch
    from transformers import Trainer
    from transformers.training_args import OptimizerNames

    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if isclass(kind) and issubclass(kind, torch.optim.Optimizer):  # else a factory that wants a whole model
            own = {key: value for key, value in options.items() if key not in OF_THE_MODEL}
            own["weight_decay"] = args.weight_decay
            kind([torch.zeros(1, requires_grad=True)], **own)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        what = (
            f"train: the optimizer '{OptimizerNames(args.optim).value}' cannot be made: {' '.join(str(error).split())}"
        )
        raise fail(where, what, "Fix `optim`, `optim_args`, or the number it names.") from error
