"""Requests under way side by side, each in a slot of the key/value cache that the next one takes when it has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ft.models.generation.engine import Completion, Engine, Follow, OnToken, Request
from ft.models.generation.kv_cache import BatchCache, SlotCache
from ft.models.generation.sampling import (
    Sampling,
    choose_tokens,
    penalize_repetition,
    token_logprobs,
    uniform_numbers,
)


@dataclass
class _Slot:
    """The request of a slot, and the tokens that its row of the cache holds."""

    request: Request
    read_ids: Sequence[int] = ()

    def known_tokens(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens of a prompt have been read; the last one is always read again, for its logits."""
        most = min(len(self.read_ids), len(prompt_ids) - 1)
        return next((n for n in range(most) if self.read_ids[n] != prompt_ids[n]), most)


class ContinuousBatch:
    """B slots, each with a request under way (`active`), one that waits to be read (`pending`), or none."""

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        first: Sequence[Request],
        queue: Iterator[Request],
        follow: Follow | None,
        on_token: OnToken | None,
    ):
        self.cache = engine.new_cache(len(first))
        device = self.cache.model.device
        self.engine, self.queue, self.queue_is_empty = engine, queue, False
        self.follow, self.on_token, self.sampling, self.device = follow, on_token, sampling, device
        self.slots = [_Slot(request) for request in first]
        self.pending = dict(enumerate(first))
        self.tokens = _Tokens(len(first), sampling, engine, device)
        self.active = torch.zeros(len(first), dtype=torch.bool, device=device)
        self.logits = torch.zeros(0)

    def completions(self) -> Iterator[Completion]:
        active = 0
        while active or self.pending:
            if self._reads_now(active):
                active += self._read_pending()
            tokens, goes_on = self.tokens.choose(self.logits, self.active)
            self._tell(tokens)
            ended = (self.active & ~goes_on).nonzero()[:, 0].tolist()
            self.active, active = goes_on, active - len(ended)
            for slot in ended:
                completion = self.tokens.completion(slot, self.slots[slot].request.key)
                self._fill(slot, completion)
                yield completion
            if active and self._is_half_empty(active):  # a step costs by its slots, whether they are in use or not
                tokens = tokens[self._keep([n for n, on in enumerate(self.active.tolist()) if on or n in self.pending])]
            if active:
                self.logits = self.cache.decode(tokens, self.active)

    def _reads_now(self, active: int) -> bool:
        """Prompts are read when a quarter of the slots is free, since reading them costs about as much as a step."""
        if isinstance(self.cache, BatchCache):
            return not active
        return bool(self.pending) and 4 * active <= 3 * len(self.slots)

    def _read_pending(self) -> int:
        """Prefill the requests that wait, and return how many."""
        if isinstance(self.cache, BatchCache):
            self._keep(list(self.pending))
        slots, requests = list(self.pending), list(self.pending.values())
        prompts = [request.prompt_ids for request in requests]
        self.pending = {}
        limits = [self.engine.limit_of(request, self.sampling) for request in requests]
        self.tokens.begin(slots, [request.key for request in requests], limits)
        if isinstance(self.cache, BatchCache):
            logits = self.cache.prefill(prompts)
        else:
            known = [self.slots[slot].known_tokens(prompt) for slot, prompt in zip(slots, prompts, strict=True)]
            new = [prompt[n:] for prompt, n in zip(prompts, known, strict=True)]
            columns = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
            logits = self.cache.prefill(slots, known, new, columns)
        if not len(self.logits):
            self.logits = logits.new_zeros(len(self.slots), logits.shape[1])
        rows = torch.tensor(slots, device=self.device)
        self.logits[rows], self.active[rows] = logits, True
        self.tokens.know(slots, [self.engine.known_ids(request) for request in requests], logits.shape[1])
        for slot, request in zip(slots, requests, strict=True):
            self.slots[slot].request = request
        return len(slots)

    def _tell(self, tokens: Tensor) -> None:
        if self.on_token is not None:
            for slot in self.active.nonzero()[:, 0].tolist():
                self.on_token(self.slots[slot].request.key, int(tokens[slot]))

    def _fill(self, slot: int, completion: Completion) -> None:
        """Give a slot to what follows its completion, or to the next request of the queue."""
        here = self.slots[slot]
        if request := self.follow(completion) if self.follow else None:
            # What ends a completion is chosen and never read: no token comes behind it.
            here.read_ids = [*here.request.prompt_ids, *completion.completion_ids[:-1]]
        else:
            here.read_ids, request = (), next(self.queue, None)
            self.queue_is_empty = request is None
        if request:
            self.pending[slot] = request

    def _is_half_empty(self, active: int) -> bool:
        there = active + len(self.pending)
        return self.queue_is_empty and isinstance(self.cache, SlotCache) and 2 * there <= len(self.slots)

    def _keep(self, slots: list[int]) -> Tensor:
        """Go on with these slots alone, and return their numbers as a tensor."""
        rows = torch.tensor(slots, device=self.device)
        self.slots = [self.slots[slot] for slot in slots]
        self.pending = {slots.index(slot): request for slot, request in self.pending.items()}
        self.active = self.active[rows]
        self.tokens.keep(rows)
        if isinstance(self.cache, SlotCache):
            self.cache.keep(rows)
        if len(self.logits):
            self.logits = self.logits[rows]
        return rows


class _Tokens:
    """What B slots have been completed with so far."""

    def __init__(self, slots: int, sampling: Sampling, engine: Engine, device: torch.device):
        self.sampling, self.engine, self.device = sampling, engine, device
        self.stop_ids = torch.tensor(engine.stop_ids, dtype=torch.long, device=device)
        self.ids = torch.zeros(slots, sampling.max_new_tokens, dtype=torch.long, device=device)
        self.logprobs, self.numbers = (torch.zeros(self.ids.shape, device=device) for _ in range(2))
        self.counts = torch.zeros(slots, dtype=torch.long, device=device)
        self.limits = torch.zeros_like(self.counts)
        self.written = torch.zeros(slots, 0, dtype=torch.bool, device=device)

    def begin(self, slots: Sequence[int], keys: Sequence[str], limits: Sequence[int]) -> None:
        rows = torch.tensor(slots, device=self.device)
        self.counts[rows] = 0
        self.limits[rows] = torch.tensor(limits, device=self.device)
        numbers = uniform_numbers(keys, self.sampling)
        if numbers is not None:
            self.numbers[rows] = numbers.to(self.device)

    def know(self, slots: Sequence[int], known_ids: Sequence[Sequence[int]], words: int) -> None:
        """Tokens that stand before these completions, of a vocabulary of `words`: what is penalised from now on."""
        if self.sampling.repetition_penalty == 1:
            return
        if not self.written.shape[1]:
            self.written = self.written.new_zeros(len(self.counts), words)
        for slot, ids in zip(slots, known_ids, strict=True):
            self.written[slot] = False
            self.written[slot, [token for token in ids if token < words]] = True  # behind these are pictures

    def choose(self, logits: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each slot that is active, by logits (B, V), 0 elsewhere; which slots go on behind it."""
        rows = active.nonzero()[:, 0]
        logits, steps = logits[rows], self.counts[rows]
        greedy = self.sampling.temperature == 0
        penalty, preferred = self.sampling.repetition_penalty, logits
        if penalty != 1:
            preferred = penalize_repetition(logits, self.written[rows], penalty)
        chosen = choose_tokens(preferred, self.sampling, None if greedy else self.numbers[rows, steps])
        if penalty != 1:
            self.written[rows, chosen] = True
        self.ids[rows, steps] = chosen
        self.logprobs[rows, steps] = token_logprobs(logits, chosen, self.sampling)
        self.counts[rows] = steps + 1
        goes_on = active.clone()
        goes_on[rows] = ~(chosen[:, None] == self.stop_ids).any(1) & (steps + 1 < self.limits[rows])
        for slot in goes_on.nonzero()[:, 0].tolist() if self.sampling.stop else ():
            ids = self.ids[slot, : int(self.counts[slot])].tolist()
            goes_on[slot] = not self.engine.stop_text(ids, self.sampling)
        tokens = torch.zeros_like(self.counts)
        tokens[rows] = chosen
        return tokens, goes_on

    def completion(self, slot: int, key: str) -> Completion:
        count = int(self.counts[slot])
        ids, logprobs = self.ids[slot, :count].tolist(), self.logprobs[slot, :count].tolist()
        return self.engine.completion(key, ids, logprobs, self.sampling)

    def keep(self, rows: Tensor) -> None:
        for name in ("ids", "logprobs", "numbers", "counts", "limits", "written"):
            setattr(self, name, getattr(self, name)[rows])
