"""Tokens drawn one by one from a model that remembers what it has read.

What is drawn depends on a row's key and its own distribution, not on the rows beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ft.models.generation.generate import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ft.models.generation.cache import Memory


Said = tuple[list[list[int]], list[list[float]]]
"""Tokens of each row, with the one that ended it, and how likely each was, in nats, at the temperature of the sampling
and before `top_p`."""


def decoded(
    memory: Memory,
    new: Sequence[list[int]],
    rooms: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int],
    draws: Tensor | None,
) -> Said:
    """What each row says after reading `new`, up to `rooms[n]` tokens."""
    import torch

    device, width = memory.mask.device, max(map(len, new))
    logits = memory.read(
        torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in new], device=device),
        torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in new], device=device),
    )
    speech = _Speech(rooms, sampling, stop_ids, draws, device)
    rows = torch.arange(len(new), device=device)
    speaking = torch.ones(len(new), dtype=torch.bool, device=device)
    while True:
        token, speaking = speech.next(rows, logits, speaking)
        if not speaking.any():
            return speech.all()
        logits = memory.read(token[:, None], speaking[:, None])


def answered(
    model: Any,
    prompts: Sequence[list[int]],
    keys: Sequence[str],
    sampling: Sampling,
    stop_ids: Sequence[int],
    batch_size: int = 64,
) -> Said:
    """One answer a prompt as `decoded` gives it, in the order of the prompts, at most `batch_size` side by side: where
    answers have ended, the next prompts join. The model is in eval mode: in training mode checkpointing turns the cache
    off."""
    from ft.models.generation.cache import Memory, not_carried

    most, numbers = sampling.max_new_tokens, draws(keys, sampling)
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    if not not_carried(model):
        speech = _Speech([most] * len(prompts), sampling, stop_ids, numbers, model.device)
        _seat_by_seat(model, prompts, order, speech, most, min(batch_size, len(prompts)))
        return speech.all()
    ids: list[list[int]] = [[] for _ in prompts]
    nats: list[list[float]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch, memory = [prompts[place] for place in places], Memory(model, len(places), carried=False)
        memory.keep(list(range(len(batch))), [0] * len(batch), room=0)
        drawn = None if numbers is None else numbers[places]
        found = decoded(memory, batch, [most] * len(batch), sampling, stop_ids, drawn)
        for place, tokens, values in zip(places, *found, strict=True):
            ids[place], nats[place] = tokens, values
    return ids, nats


def _seat_by_seat(
    model: Any, prompts: Sequence[list[int]], waiting: list[int], speech: _Speech, most: int, count: int
) -> None:
    """Let all prompts speak, `count` at once. Seats are given on as soon as a quarter is free, and taken away when
    nobody waits and half are: both cost about a step."""
    import torch

    from ft.models.generation.slots import Seats

    def asked(number: int) -> list[int]:
        nonlocal waiting
        now, waiting = waiting[:number], waiting[number:]
        return now

    now, seats = asked(count), Seats(model, count, max(map(len, prompts)) + most)
    rows = torch.tensor(now, device=model.device)  # who sits where
    speaking = torch.ones_like(rows, dtype=torch.bool)
    logits = seats.sit(torch.arange(count, device=model.device), [prompts[row] for row in now])
    while True:
        token, speaking = speech.next(rows, logits, speaking)
        left = int(speaking.sum())
        if not left and not waiting:
            return
        if left:
            logits = seats.read(token, speaking)
        if waiting and 4 * left <= 3 * count:
            free = (~speaking).nonzero()[: len(waiting), 0]
            now = asked(len(free))
            logits[free] = seats.sit(free, [prompts[row] for row in now])
            rows[free], speaking[free] = torch.tensor(now, device=model.device), True
        elif not waiting and 2 * left <= len(speaking):
            stay = speaking.nonzero()[:, 0]
            seats.close(stay)
            rows, logits, speaking = rows[stay], logits[stay], speaking[stay]


class _Speech:
    """What R rows have said so far, each up to `rooms[n]` tokens."""

    def __init__(
        self, rooms: Sequence[int], sampling: Sampling, stop_ids: Sequence[int], draws: Tensor | None, device: Any
    ):
        import torch

        self.sampling, self.draws = sampling, None if draws is None else draws.to(device)
        self.stops, self.rooms = torch.tensor(list(stop_ids), device=device), torch.tensor(list(rooms), device=device)
        self.said = torch.zeros(len(rooms), max(rooms), dtype=torch.long, device=device)
        self.nats = torch.zeros(len(rooms), max(rooms), device=device)
        self.lengths = torch.zeros(len(rooms), dtype=torch.long, device=device)

    def next(self, rows: Tensor, logits: Tensor, speaking: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of `rows` (B,) where they are `speaking` (B,), by `logits` (B, V); who goes on behind it."""
        who, logits = rows[speaking], logits[speaking]
        steps = self.lengths[who]
        token = chosen(logits, self.sampling, None if self.draws is None else self.draws[who, steps])
        self.said[who, steps] = token
        self.nats[who, steps] = _nats(logits, token, self.sampling)
        self.lengths[who] = steps + 1
        goes_on = speaking.clone()
        goes_on[speaking] = ~(token[:, None] == self.stops).any(1) & (steps + 1 < self.rooms[who])
        return token.new_zeros(len(rows)).masked_scatter(speaking, token), goes_on

    def all(self) -> Said:
        counts: list[int] = self.lengths.tolist()
        ids, nats = self.said.tolist(), self.nats.tolist()
        return [row[:n] for row, n in zip(ids, counts, strict=True)], [
            row[:n] for row, n in zip(nats, counts, strict=True)
        ]


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
