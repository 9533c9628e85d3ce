"""Tokens drawn one by one from a model that remembers what it has read.

What is drawn depends on a row's key and its own distribution, not on the rows beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ft.models.generate import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ft.models.memory import Memory


def decoded(
    memory: Memory,
    new: Sequence[list[int]],
    rooms: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int],
    draws: Tensor | None,
    thin: bool = False,
) -> tuple[list[list[int]], list[list[float]]]:
    """What each row says after reading `new`, with the token that ends it, up to `rooms[n]` tokens; and how likely each
    token was, in nats, at the temperature of `sampling` and before `top_p`.

    `thin` lets rows that are done leave the memory, which is then of no use afterwards.
    """
    import torch

    device, width = memory.mask.device, max(map(len, new))
    logits = memory.read(
        torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in new], device=device),
        torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in new], device=device),
    )
    stops = torch.tensor(list(stop_ids), device=device)
    limits, draws = torch.tensor(list(rooms), device=device), None if draws is None else draws.to(device)
    rows = torch.arange(len(new), device=device)  # those still in memory
    speaking = torch.ones(len(new), dtype=torch.bool, device=device)
    said = torch.zeros(len(new), max(rooms), dtype=torch.long, device=device)
    nats = torch.zeros(len(new), max(rooms), device=device)
    lengths = torch.zeros(len(new), dtype=torch.long, device=device)
    for step in range(max(rooms)):
        token = chosen(logits, sampling, None if draws is None else draws[rows, step])
        said[rows, step] = token
        nats[rows, step] = _nats(logits, token, sampling)
        lengths[rows] += speaking
        speaking = speaking & ~torch.isin(token, stops) & (step + 1 < limits[rows])
        left = int(speaking.sum())
        if not left:
            break
        if thin and 2 * left <= len(rows):
            stay = speaking.nonzero()[:, 0]
            memory.keep(stay.tolist(), memory.mask[stay].sum(1).tolist(), room=max(rooms) - step)
            rows, token, speaking = rows[stay], token[stay], speaking[stay]
        logits = memory.read(token[:, None], speaking[:, None])
    counts: list[int] = lengths.tolist()
    ids, values = said.tolist(), nats.tolist()
    return [row[:n] for row, n in zip(ids, counts, strict=True)], [
        row[:n] for row, n in zip(values, counts, strict=True)
    ]


def answered(
    model: Any,
    prompts: Sequence[list[int]],
    keys: Sequence[str],
    sampling: Sampling,
    stop_ids: Sequence[int],
    batch_size: int = 64,
) -> tuple[list[list[int]], list[list[float]]]:
    """One answer a prompt as `decoded` gives it, in the order of the prompts; prompts of about one length are read side
    by side. The model is in eval mode: in training mode checkpointing turns the cache off."""
    from ft.models.memory import Memory, not_carried

    ids: list[list[int]] = [[] for _ in prompts]
    nats: list[list[float]] = [[] for _ in prompts]
    carried = not not_carried(model)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch, most = [prompts[place] for place in places], sampling.max_new_tokens
        memory = Memory(model, len(batch), carried)
        memory.keep(list(range(len(batch))), [0] * len(batch), room=max(map(len, batch)) + most)
        drawn = draws([keys[place] for place in places], sampling)
        found = decoded(memory, batch, [most] * len(batch), sampling, stop_ids, drawn, thin=carried)
        for place, tokens, values in zip(places, *found, strict=True):
            ids[place], nats[place] = tokens, values
    return ids, nats


def _nats(logits: Tensor, token: Tensor, sampling: Sampling) -> Tensor:
    """Log-probability of each row's token, (B,)."""
    scaled = logits / (sampling.temperature or 1.0)
    return scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)


def draws(keys: Sequence[str], sampling: Sampling) -> Tensor | None:
    """Numbers in [0, 1) to draw tokens with, (B, max_new_tokens): by seed and key, not by place. None for greedy."""
    import torch

    if sampling.temperature == 0:
        return None
    rows = []
    for key in keys:
        digest = hashlib.sha256(f"{sampling.seed}\n{key}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big", signed=True)
        rows.append(torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)


def chosen(logits: Tensor, sampling: Sampling, draws: Tensor | None) -> Tensor:
    """One token a row, (B,), from logits (B, V): the likeliest, or where `draws` (B,) falls in the distribution.

    The cumulative distribution runs in the order of the vocabulary, not of probability, so that rounding, which may
    swap two tokens of nearly the same probability, does not change what is drawn.
    """
    import torch

    if draws is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # never the likeliest, whose sum before it is 0
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    mass = probabilities.double().cumsum(-1)
    found = torch.searchsorted(mass, draws.double()[:, None] * mass[:, -1:], right=True)
    return found[:, 0].clamp(max=logits.shape[-1] - 1)
