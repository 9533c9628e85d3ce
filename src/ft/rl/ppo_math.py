"""What PPO computes from numbers alone: rewards, advantages, losses. Nothing here knows a model.

(B, T) is one number for each token of B answers, padded on the right; `mask` is True on real tokens, the end token
among them. Log-probabilities are in nats, at the temperature of sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k3"]

EPSILON = 1e-8  # TRL's, under the root of a variance


def logit(shares: Tensor, clamp: float) -> Tensor:
    """log(p / (1 - p)), p kept `clamp` away from 0 and 1: a reward model that is sure must not give infinity."""
    return torch.logit(shares.double().clamp(clamp, 1 - clamp)).to(shares.dtype)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over real tokens; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor | None = None, shift_mean: bool = True) -> Tensor:
    """Variance 1, and mean 0 unless `shift_mean` is False; 0 where `mask` is False. A constant becomes its mean
    (TRL's `masked_whiten`; the variance is the unbiased one)."""
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    mean = masked_mean(values, mask)
    variance = ((values - mean) ** 2 * mask).sum() / (mask.sum() - 1).clamp(min=1)
    white = (values - mean) * torch.rsqrt(variance + EPSILON)
    return (white if shift_mean else white + mean) * mask


def kl_per_token(logprobs: Tensor, reference: Tensor, estimator: Estimator = "k1") -> Tensor:
    """Estimates of KL(policy || reference) at the sampled tokens, (B, T) (joschu.net/blog/kl-approx.html).

    k1, log p - log q, is unbiased; k3, q/p - 1 - log(q/p), is so too, never negative, and of lower variance.
    """
    if estimator == "k1":
        return logprobs - reference
    return (reference - logprobs).exp() - 1 - (reference - logprobs)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-beta KL at each token, and the answer's score (B,) at its last one, (B, T) (arXiv:1909.08593, eq. 2)."""
    rewards = -beta * kl * mask
    last = (mask.sum(1) - 1).clamp(min=0)[:, None]
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns they imply, both (B, T) (arXiv:1506.02438, eq. 16).

    Behind the last token nothing is worth anything. Nothing is whitened yet.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    next_advantage = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(next_advantage)
    for step in reversed(range(values.shape[1])):
        delta = rewards[:, step] + gamma * next_value - values[:, step]  # the residual of eq. 12
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, step]  # 0 behind the last token
        next_value = values[:, step]
        advantages[:, step] = next_advantage
    return advantages, advantages + values


def policy_losses(
    logprobs: Tensor, old: Tensor, advantages: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each token, its ratio to the policy that sampled, and whether the clip decided it (arXiv:1707.06347,
    eq. 7); `low` and `high` are how far below and above 1 the ratio counts."""
    ratio = (logprobs - old).exp()
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.max(unclipped, clipped), ratio, clipped > unclipped  # the maximum of losses is the paper's minimum


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of each token's value, where a move of more than `clip` from the old value earns nothing,
    and whether the clip decided it (as in the PPO of OpenAI's baselines and of TRL)."""
    unclipped = (values - returns) ** 2
    clipped = (old + (values - old).clamp(-clip, clip) - returns) ** 2
    return 0.5 * torch.max(unclipped, clipped), clipped > unclipped


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is a perfect critic, 0 knows no more than the mean.
    None where all returns are equal."""
    real = mask.bool()
    variance = returns[real].var(correction=0)
    if not variance > 0:
        return None
    return float(1 - (returns[real] - values[real]).var(correction=0) / variance)


def adapt_beta(beta: float, kl: float, target: float, share: float) -> float:
    """The next beta, so that KL nears `target` (arXiv:1909.08593, section 2.2): at most 20 % of the error counts,
    times `share`, the answers since the last change over the horizon."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * share)
