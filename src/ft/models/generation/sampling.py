"""How the next token is chosen: by the model's distribution, and by numbers that belong to a seed and a key.

A completion depends on its own prompt, seed and key, not on the batch it is made in: every request has random numbers
of its own, and choosing by them is not thrown off by the rounding that a different batch brings.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How answers are made of what a model predicts. Raises ValueError for what cannot be in force together.

    max_new_tokens      longest answer, its end-of-turn token counted
    temperature         0 is greedy
    top_p               likeliest tokens up to this share of probability (arXiv:1904.09751, section 3.1)
    top_k               so many of the likeliest tokens; 0: all (arXiv:1805.04833, section 5.4)
    min_p               tokens at least so likely as this share of the likeliest (arXiv:2407.01082)
    repetition_penalty  tokens of prompt and answer are made less likely by this factor (arXiv:1909.05858, section 4.1)
    beams               so many beginnings are followed side by side, and the likeliest whole is the answer; 1: none
    stop                texts that end an answer and do not belong to it
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 1
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    beams: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high, words in (
            ("temperature", 0, None, "0 (greedy) or above"),
            ("top_k", 0, None, "a number of tokens; 0 is all"),
            ("min_p", 0, 1, "a share, from 0 to 1"),
            ("beams", 1, None, "1 or more"),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                raise ValueError(f"{name} is {value:g}; it is {words}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p:g}; it is a share, above 0 and up to 1")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty:g}; it is above 0, and 1 is none")
        if not all(self.stop):
            raise ValueError("stop has an empty text, which would end every answer")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(f"beams follow the likeliest tokens, and temperature is {self.temperature:g}; write 0")
        if self.temperature == 0 and (self.top_k or self.min_p):
            name = "top_k" if self.top_k else "min_p"
            raise ValueError(f"{name} changes nothing at temperature 0, which takes the likeliest token; raise it")

    def record(self) -> dict[str, Any]:
        """What decides an answer, as plain values. What came later and is not in use is left out, so names that were
        made of these values stay."""
        later = {field.name: field.default for field in fields(self)[4:]}
        return {key: value for key, value in asdict(self).items() if key not in later or value != later[key]}


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
    probabilities = likely_tokens((logits / sampling.temperature).softmax(-1), sampling)
    # In float32 the sum over a large vocabulary is off by more than the probability of many tokens.
    cumulative = probabilities.double().cumsum(-1)
    tokens = torch.searchsorted(cumulative, numbers.double()[:, None] * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def likely_tokens(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (B, V) with 0 for tokens that `top_k`, then `top_p`, then `min_p` rule out: transformers' order."""
    if 0 < sampling.top_k < probabilities.shape[-1]:
        least = probabilities.topk(sampling.top_k, dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)  # top_p is a share of what is left
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # never the likeliest, whose sum before it is 0
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
    if sampling.min_p:
        least = sampling.min_p * probabilities.max(-1, keepdim=True).values
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    return probabilities


def penalize_repetition(logits: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) of the tokens that are `written` already (B, V), divided by the penalty where they are above 0 and
    multiplied where below: in both cases less likely (arXiv:1909.05858, eq. 1, as transformers reads it)."""
    return logits.where(~written, (logits * penalty).where(logits < 0, logits / penalty))


def token_logprobs(logits: Tensor, tokens: Tensor, sampling: Sampling) -> Tensor:
    """Log-probability of each row's token, (B,), in nats, at the sampling's temperature, whatever ruled others out."""
    scaled = logits / (sampling.temperature or 1.0)
    return scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)
