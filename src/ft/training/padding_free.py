"""Rows of different lengths without their padding, on a CPU.

A batch padded on the right goes through the layers as one row of its real tokens; attention takes it apart again, row
by row, each causal by itself, and needs no mask. What comes out stands where the padded batch has it. On a GPU
FlashAttention does the same for packed rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward as sdpa

from ft.bounds import is_at_most
from ft.models.hidden_states import inner_of, window
from ft.training.trl_compat import attention_of

UNDERSTOOD = {"input_ids", "attention_mask", "use_cache"}  # with anything else a batch stays as it is

# Hidden states may differ by this share of their length, at the worst token.
ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


def by_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: list[int] | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA. With `row_lengths` the T columns of query, key and value (1, H, T, D) are rows one behind the
    other, and none sees another. Returns (B, T, H, D)."""
    if row_lengths is None:
        return sdpa(module, query, key, value, attention_mask, **given)
    rows = zip(*(states.split(row_lengths, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([sdpa(module, q, k, v, None, **given)[0] for q, k, v in rows], dim=1), None


AttentionInterface.register("sdpa", by_rows)


def leave_padding_out(model: Any) -> str:
    """From now on the model's backbone computes nothing for the padding of a right-padded batch. Returns why not, where
    nothing has changed; else an empty string.

    Tried on random rows, because only the model knows what its layers do with several rows in one.
    """
    inner = inner_of(model)
    backbone = inner.base_model
    if attention_of(inner) != "sdpa" or inner.device.type != "cpu":
        return "attention is not SDPA on a CPU"
    padded, longest = backbone.forward, window(inner.config.get_text_config())

    def forward(self: Any, *args: Any, select: Tensor | None = None, **inputs: Any) -> Any:
        if args or not _is_ragged(inputs, longest):
            return padded(*args, **inputs, **({} if select is None else {"select": select}))
        return _without_padding(padded, inputs["input_ids"], inputs["attention_mask"], select)

    ragged = MethodType(forward, backbone)
    if reason := _differs(inner, padded, ragged):
        return reason
    backbone.forward = ragged
    return ""


def _is_ragged(inputs: Mapping[str, Any], longest: float) -> bool:
    """Whether this is a plain batch of rows that begin with a token and end with padding, some of them with some."""
    if {name for name, value in inputs.items() if value is not None} != UNDERSTOOD or inputs["use_cache"]:
        return False
    mask: Tensor = inputs["attention_mask"]
    if mask.ndim != 2 or mask.shape[1] > longest:
        return False
    return bool(mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all() and not mask.all())


def _without_padding(
    forward: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, select: Tensor | None
) -> Any:
    """The output of a padded batch (B, L): of the slots b * L + l to select, or of all, with zeros for its padding."""
    real = attention_mask.bool()
    places = real.flatten().nonzero()[:, 0]  # where the real tokens stand in the batch
    chosen = {} if select is None else {"select": torch.searchsorted(places, select)}
    output = forward(
        input_ids=input_ids[real][None],
        position_ids=torch.arange(real.shape[1]).expand_as(real)[real][None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),  # a finished mask, so none is made; nobody reads it
        row_lengths=real.sum(1).tolist(),
        use_cache=False,
        **chosen,
    )
    if select is not None:
        return output
    hidden = output.last_hidden_state[0]
    filled = hidden.new_zeros(real.numel(), hidden.shape[1]).index_copy(0, places, hidden)
    output.last_hidden_state = filled.view(*real.shape, -1)
    return output


def _differs(inner: Any, padded: Callable[..., Any], ragged: Callable[..., Any]) -> str:
    """What is wrong with hidden states of random rows without their padding; empty if nothing is."""
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (3, 24), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(24) < torch.tensor([[9], [24], [17]])).long()
    was_training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            padded_states, ragged_states = (
                read(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()].float()
                for read in (padded, ragged)
            )
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # layers that know nothing of rows in a row
        return f"{type(error).__name__}: {error}"
    finally:
        inner.train(was_training)
    largest = ((padded_states - ragged_states).norm(dim=1) / padded_states.norm(dim=1)).max().item()
    exact = is_at_most(largest, ROUNDING[str(inner.dtype).removeprefix("torch.")])
    return "" if exact else f"hidden states differ by {largest:.2g} of their length"
