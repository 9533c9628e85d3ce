"""How evenly a mixture of experts is used while it trains: what each router chose, between two logs.

A router that sends all tokens to a few experts trains the others no more; the loss alone hides it. The auxiliary loss
(arXiv:2101.03961, section 2.2; `router_aux_loss_coef`) is what keeps the load even.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ft.models.hidden_states import inner_of
from ft.training.stage_trainer import StageTrainer
from ft.training.structure import expert_count, is_router

if TYPE_CHECKING:
    from torch import Tensor

ENTROPY, DEAD = "expert_load_entropy", "dead_experts"


def log_expert_load(trainer: StageTrainer) -> None:
    """Let the trainer log, of the tokens read in training since its last log, the mean over layers of the entropy of
    their experts' load, as a share of the most there can be (1: all alike), and how many experts no token went to.
    Nothing for a model without experts."""
    inner = inner_of(trainer.model)
    routers = [module for name, module in inner.named_modules() if is_router(f"{name}.weight") and _chooses(module)]
    if routers:
        ExpertLoad(trainer, routers, expert_count(inner.config.get_text_config(decoder=True)))


def _chooses(module: nn.Module) -> bool:
    """Whether a module named as a router is one: it has a row for each expert and says how many it takes."""
    return isinstance(getattr(module, "top_k", None), int)


class ExpertLoad:
    """Counts (R, E), of R routers and their E experts, of this process's tokens."""

    def __init__(self, trainer: StageTrainer, routers: list[nn.Module], experts: int):
        self.trainer, self.log_of = trainer, trainer.log
        self.counts = torch.zeros(len(routers), experts, dtype=torch.long)
        for number, router in enumerate(routers):
            router.register_forward_hook(lambda module, inputs, output, number=number: self.count(number, output))
        trainer.log = self.log

    def count(self, number: int, output: Any) -> None:
        """`output` of transformers' routers ends with the chosen experts of each token, (T, K). Those of a few models
        give scores alone, and their experts are chosen elsewhere: they are not counted."""
        if self.trainer.model.training and isinstance(output, tuple) and not output[-1].is_floating_point():
            chosen: Tensor = output[-1].flatten()
            self.counts[number] += torch.bincount(chosen, minlength=self.counts.shape[1]).cpu()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.trainer.model.training and self.counts.any():
            accelerator = self.trainer.accelerator
            counts: Any = accelerator.reduce(self.counts.to(accelerator.device), "sum")
            counts = counts.double().cpu()
            shares = counts / counts.sum(1, keepdim=True)
            entropy = -(shares * shares.clamp(min=1e-12).log()).sum(1) / math.log(counts.shape[1])
            logs |= {ENTROPY: float(entropy.mean()), DEAD: float((counts == 0).sum())}
            self.counts.zero_()
        self.log_of(logs, start_time)
