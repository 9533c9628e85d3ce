"""The scalar head of a reward model: in float32 whatever computes below it, read at the end of the answer."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

START = 0.1  # size of the first scores: a new head draws its weights from N(0, (START / sqrt(width))^2)


class ScoreHead(torch.nn.Linear):
    """One number for a hidden state, (N, width) → (N, 1), computed and held in float32.

    Autocast would round it: in bfloat16 a score of 4 to 8 has steps of 1/32, and near pairs become ties.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return linear(hidden.float(), self.weight.float())


def put_head(model: Any, new: bool) -> None:
    """Give a sequence classifier of one label its float32 head, with the weights it has or with `new` ones, and let it
    read the score at the last token that the attention mask marks."""
    old = model.score.weight
    head = ScoreHead(old.shape[1], 1, bias=False, device=old.device, dtype=torch.float32)
    head.requires_grad_(old.requires_grad)
    if new:
        torch.nn.init.normal_(head.weight, std=START / old.shape[1] ** 0.5)
    else:
        head.weight.data.copy_(old.data)
    model.score = head
    _read_at_end(model)


def ends(attention_mask: Tensor) -> Tensor:
    """Column of each row's last token, (B,), from the mask (B, T)."""
    steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * steps).argmax(1)


def _read_at_end(model: Any) -> None:
    """transformers reads the score at the last token that is not the pad token; where the tokenizer pads with the token
    that ends a turn, that is the answer's last word. The mask always tells an end from padding."""
    import functools

    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    by_pad_token = model.forward

    def forward(self: Any, *args: Any, **inputs: Any) -> Any:
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        if args or ids is None or mask is None:
            return by_pad_token(*args, **inputs)
        output = self.base_model(
            input_ids=ids, attention_mask=mask, position_ids=inputs.get("position_ids"), use_cache=False
        )
        hidden = output.last_hidden_state[torch.arange(len(ids), device=ids.device), ends(mask)]
        return SequenceClassifierOutputWithPast(logits=self.score(hidden))

    model.forward = MethodType(functools.wraps(type(model).forward)(forward), model)
