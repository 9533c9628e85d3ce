"""How the next token is chosen: by the model's distribution, and by numbers that belong to a seed and a key.

A completion depends on its own prompt, seed and key, not on the batch it is made in: every request has random numbers
of its own, and choosing by them is not thrown off by the rounding that a different batch brings.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PRESETS = {
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "llama2": {"temperature": 0.6, "top_p": 0.9},  # generation.py of the Llama 2 release
    "creative": {"temperature": 1.0, "top_p": 0.95},
}


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; `max_new_tokens` counts the end-of-turn token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 1


def prompt_keys(prompts: Sequence[Sequence[int]]) -> list[str]:
    """A key for each prompt where the caller has none: its tokens, and how often they came before in this list."""
    counts: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        digest = hashlib.sha256(repr(list(prompt)).encode()).hexdigest()[:20]
        keys.append(f"{digest}/{counts[digest]}")
        counts[digest] += 1
    return keys


def uniform_numbers(keys: Sequence[str], sampling: Sampling) -> Tensor | None:
    """Numbers in [0, 1) by which tokens are chosen, (B, max_new_tokens), by seed and key. None where it is greedy."""
    import torch

    if sampling.temperature == 0:
        return None
    rows = []
    for key in keys:
        digest = hashlib.sha256(f"{sampling.seed}\n{key}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big", signed=True)
        rows.append(torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)


def choose_tokens(logits: Tensor, sampling: Sampling, numbers: Tensor | None) -> Tensor:
    """One token a row, (B,), from logits (B, V): the likeliest, or where `numbers` (B,) fall in the distribution.

    The cumulative distribution runs in the order of the vocabulary, not of probability, so that rounding, which may
    swap two tokens of nearly the same probability, does not change what is chosen.
    """
    import torch

    if numbers is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # never the likeliest, whose sum before it is 0
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    # In float32 the sum over a large vocabulary is off by more than the probability of many tokens.
    cumulative = probabilities.double().cumsum(-1)
    tokens = torch.searchsorted(cumulative, numbers.double()[:, None] * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def token_logprobs(logits: Tensor, tokens: Tensor, sampling: Sampling) -> Tensor:
    """Log-probability of each row's token, (B,), in nats, at the sampling's temperature and before `top_p`."""
    scaled = logits / (sampling.temperature or 1.0)
    return scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)
