"""The common beginning of a preference pair goes through the model once.

Chosen and rejected answer the same prompt, so two separate rows compute it twice. Here a pair is one stretch of a row,
`prompt, chosen, rejected`, where neither answer sees the other and both continue the prompt's positions. The model
itself does this (`share_logps`, `share_scores`): a trainer hands it the usual padded batch, first all chosen rows, then
all rejected ones, with `pairs=True`, and gets back what separate rows would give, in the same shapes. So TRL's
collators, losses and metrics stay as they are, and a batch that cannot be shared is computed row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from ft.bounds import is_at_most
from ft.encode.loss_mask import IGNORE_INDEX
from ft.models.hidden_states import inner_of, let_select, window
from ft.models.reward_head import ends
from ft.training.trl_compat import attention_of

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

# What TRL's trainers pass for pairs of texts; with anything else (images, router logits) rows stay separate.
INPUTS = {"input_ids", "attention_mask", "labels", "use_cache", "fused_lm_head", "return_dict", "margin"}

# FlashAttention takes no mask of its own; the mask below would be ignored there.
MASKED = ("sdpa", "eager")

# Rounding is all that may differ, at least this much of it: see `_largest_difference`.
ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


@dataclass(frozen=True)
class Layout:
    """P pairs in B rows of T slots.

    `input_ids`, `position_ids`: (B, T). `mask`: (B, 1, T, T), True where a slot (second to last) sees another (last).
    `slots`: (2P, L), for each token of the padded batch its slot in the flattened rows, b * T + t. Both sides of a pair
    have the same slots as far as they agree.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    slots: Tensor


def layout(input_ids: Tensor, attention_mask: Tensor, width: int) -> Layout:
    """Lay a right-padded batch (2P, L) of P chosen, then P rejected rows out so that pairs share their beginning.

    What is shared is the longest common prefix of the two token sequences: the prompt, and the answers as far as they
    agree. `width` is the hidden size; it weighs padding against the quadratic cost of a long row.
    """
    import torch

    real = attention_mask.bool()
    chosen, rejected = input_ids.chunk(2)
    lengths, others = real.sum(1).chunk(2)  # (P,) each
    both = torch.logical_and(*real.chunk(2))
    common = ((chosen == rejected) & both).long().cumprod(1).sum(1)  # (P,)
    row_of, offset, rows, length = pack((lengths + others - common).tolist(), width)

    start = torch.tensor(row_of, device=input_ids.device) * length + torch.tensor(offset, device=input_ids.device)
    steps = torch.arange(input_ids.shape[1], device=input_ids.device)
    beyond = (steps >= common[:, None]) * (lengths - common)[:, None]  # the rejected branch stands after the chosen one
    slots = torch.cat((start[:, None] + steps, start[:, None] + steps + beyond))
    slots = slots.masked_fill(~real, 0)

    def placed(values: Tensor, empty: int) -> Tensor:
        """`values` (2P, L) in their slots, shape (B, T)."""
        flat = values.new_full((rows * length,), empty)
        flat[slots[real]] = values.expand_as(input_ids)[real]
        return flat.view(rows, length)

    pairs = torch.arange(len(row_of), device=input_ids.device).repeat(2)[:, None]
    side = torch.arange(2, device=input_ids.device).repeat_interleave(len(row_of))[:, None] + 1
    branch = torch.where(steps < common.repeat(2)[:, None], 0, side)
    return Layout(
        input_ids=placed(input_ids, 0),
        position_ids=placed(steps[None], 0),
        mask=visible(placed(pairs, -1), placed(branch, 0))[:, None],
        slots=slots,
    )


def visible(pair: Tensor, branch: Tensor) -> Tensor:
    """Which slot (B, T, 1) sees which (B, 1, T): earlier ones of its pair, on its own branch or on the stem (0).

    Empty slots are a pair of their own: a slot that sees nothing would make attention divide zero by zero.
    """
    import torch

    length = pair.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=pair.device).tril()
    same_pair = pair[:, :, None] == pair[:, None]
    on_path = (branch[:, None] == 0) | (branch[:, :, None] == branch[:, None])
    return causal & same_pair & on_path


def pack(lengths: Sequence[int], width: int) -> tuple[list[int], list[int], int, int]:
    """Row and offset of each length, number of rows B, row length T, such that B rows of T cost least.

    For each B the longest pairs are placed first, each into the emptiest row.
    """
    order = sorted(range(len(lengths)), key=lambda pair: -lengths[pair])
    best: tuple[int, list[int], list[int], int, int] | None = None
    for rows in range(1, len(lengths) + 1):
        filled, row_of, offset = [0] * rows, [0] * len(lengths), [0] * len(lengths)
        for pair in order:
            row = filled.index(min(filled))
            row_of[pair], offset[pair] = row, filled[row]
            filled[row] += lengths[pair]
        length = max(filled)
        price = cost(rows, length, width)
        if best is None or price < best[0]:
            best = (price, row_of, offset, rows, length)
    assert best is not None, "a batch has at least one pair"
    return best[1:]


def cost(rows: int, length: int, width: int) -> int:
    """Relative time of a forward: per slot and layer about 24 width^2 operations in matrix products and
    4 length width in attention, which a dense mask does not shorten; divided by 4 width."""
    return rows * length * (6 * width + length)


def share_prompts(trainer: Any, share: Callable[[Any], None], others: Sequence[Any] = ()) -> None:
    """Let a pair's prompt go once through the trainer's model and the others (`share` is one of the two below), if that
    is proven to change nothing on this model."""
    for model in (trainer.model, *others):
        share(model)
    against = objection(trainer.model)
    trainer.shares = against is None
    if against and trainer.is_world_process_zero():
        log.warning("prompts are not shared by their two answers: %s", against)


def share_logps(model: Any) -> None:
    """Let a causal model with TRL's fused head score pairs with a shared prefix: `model(..., pairs=True)`.

    Like TRL's `add_fused_lm_head`, which must come first, this changes `forward` of the model itself, so that it works
    inside PEFT, DDP and gradient checkpointing. The head sees only the positions whose log-probabilities count.
    """
    inner = inner_of(model)
    let_select(inner.base_model)

    def shared(apart: Callable[..., Any], rows: Layout, inputs: dict[str, Any]) -> Any:
        targets = inputs["labels"][:, 1:]
        counted = targets != IGNORE_INDEX  # (2P, L - 1); the token at t + 1 is predicted in the slot of t
        result = apart(
            **_rows(inner, rows),
            select=rows.slots[:, :-1][counted],
            shift_labels=targets[counted][None],
            fused_lm_head=True,
        )
        for name in ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask"):
            if name in result:
                result[name] = result[name].new_zeros(counted.shape).masked_scatter(counted, result[name])
        return result

    _let_share(inner, shared, needs=("labels", "fused_lm_head"))


def share_scores(model: Any) -> None:
    """Let a sequence classifier (one score, as `RewardTrainer` trains it) score pairs with a shared prefix.

    The score is read at the last token that the mask marks, as a reward model of ft reads it with separate rows.
    """
    from transformers.modeling_outputs import SequenceClassifierOutputWithPast

    inner = inner_of(model)
    let_select(inner.base_model)

    def shared(apart: Callable[..., Any], rows: Layout, inputs: dict[str, Any]) -> Any:
        slots = rows.slots.gather(1, ends(inputs["attention_mask"])[:, None]).squeeze(1)  # (2P,)
        hidden = inner.base_model(**_rows(inner, rows), select=slots, use_cache=False).last_hidden_state
        return SequenceClassifierOutputWithPast(logits=inner.score(hidden[0]))  # (2P, 1)

    _let_share(inner, shared, needs=())


def objection(model: Any) -> str | None:
    """Why this model must not share prefixes; None when a shared pair gives the hidden states of two separate rows.

    Tried on random pairs after `share_logps` or `share_scores`, because only the model knows: layers that read the row
    in order (state space, convolution) mix the branches whatever the mask says.
    """
    import torch

    inner = inner_of(model)
    attention = attention_of(inner)
    if attention not in MASKED:
        return f"attention '{attention}' takes no mask that keeps two answers apart ({' and '.join(MASKED)} do)"
    vocabulary = inner.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 48), generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    ids[2:, 20:] = ids[2:, 20:].flip(1)
    ids_with_other_chosen = ids.clone()
    ids_with_other_chosen[:2, 21:40] = ids[:2, 21:40].roll(3, 1)
    real = torch.ones_like(ids)
    real[0, 40:] = 0
    ids, ids_with_other_chosen, real = (tensor.to(model.device) for tensor in (ids, ids_with_other_chosen, real))
    rows = layout(ids, real, width=1_000_000)  # attention counts for nothing: both pairs in one row
    was_training = model.training
    model.eval()
    with torch.no_grad():
        apart = inner.base_model(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        alone = [_hidden_states(inner, row[seen.bool()][None])[0] for row, seen in zip(ids, real, strict=True)]
        shared = inner.base_model(**_rows(inner, rows), use_cache=False).last_hidden_state
        other = layout(ids_with_other_chosen, real, width=1_000_000)
        changed = inner.base_model(**_rows(inner, other), use_cache=False).last_hidden_state
    model.train(was_training)
    rejected = rows.slots[2:].flatten()  # which stand behind the chosen ones
    leak = _largest_difference(shared.flatten(0, 1)[rejected], changed.flatten(0, 1)[rejected])
    if not is_at_most(leak, ROUNDING["float32"]):  # the same shapes round alike, whatever the dtype
        return f"a rejected answer's hidden states change by {leak:.2g} of their length with the chosen one"
    apart, shared = apart[real.bool()], shared.flatten(0, 1)[rows.slots[real.bool()]]
    error = _largest_difference(apart, shared)
    # GPU kernels round by the shape of a batch, and in half precision many layers make much of that (0.05 on a 7B in
    # NF4, H200). So a batch of one row, which nobody doubts, says how much of the difference is rounding.
    rounding = _largest_difference(apart, torch.cat(alone))
    if is_at_most(error, max(ROUNDING[str(model.dtype).removeprefix("torch.")], 3 * rounding)):
        return None
    return f"hidden states differ from those of separate rows by {error:.2g} of their length"


def _hidden_states(inner: Any, ids: Tensor) -> Tensor:
    states: Tensor = inner.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return states


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """Of hidden states (N, d): length of the difference over that of the state, at the worst token."""
    one, other = one.float(), other.float()
    return float(((one - other).norm(dim=1) / one.norm(dim=1)).max())


def _let_share(inner: Any, shared: Callable[..., Any], needs: tuple[str, ...]) -> None:
    """Replace `inner.forward` by one that knows `pairs=True`; what cannot be shared takes the old way."""
    import functools

    apart = inner.forward

    @functools.wraps(type(inner).forward)  # generate() checks its arguments against this signature
    def forward(self: Any, *args: Any, pairs: bool = False, **inputs: Any) -> Any:
        given = {name for name, value in inputs.items() if value is not None}
        if not pairs or args or not INPUTS.issuperset(given) or not given.issuperset(needs):
            return apart(*args, **inputs)
        config = inner.config.get_text_config()
        batch, length = inputs["input_ids"].shape
        if length > window(config):
            return apart(**inputs)
        rows = layout(inputs["input_ids"], inputs["attention_mask"], config.hidden_size)
        row_count, row_length = rows.input_ids.shape
        if cost(row_count, row_length, config.hidden_size) >= cost(batch, length, config.hidden_size):
            return apart(**inputs)  # little in common, or long answers: one long row attends to more than it saves
        return shared(apart, rows, inputs)

    inner.forward = MethodType(forward, inner)


def _rows(inner: Any, rows: Layout) -> dict[str, Tensor]:
    """The layout as the model's arguments. Eager attention adds its mask; SDPA takes True and False in any dtype."""
    import torch

    mask = rows.mask
    if attention_of(inner) == "eager":
        mask = torch.zeros_like(mask, dtype=inner.dtype).masked_fill(~mask, torch.finfo(inner.dtype).min)
    return {"input_ids": rows.input_ids, "position_ids": rows.position_ids, "attention_mask": mask}
