"""PPO's numbers: against TRL 1.12's own lines (recorded), against loops written here, and against the paper's table."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

import tiny
from ft.rl import ppo_math as ours

GOLDEN = json.loads((tiny.ROOT / "tests" / "golden" / "ppo_trl_1_12.json").read_text(encoding="utf-8"))
GIVEN = {name: torch.tensor(values) for name, values in GOLDEN["given"].items()}
FOUND = {name: torch.tensor(values) for name, values in GOLDEN["found"].items()}
ARGS, MASK = GOLDEN["args"], GIVEN["mask"]


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-6, rtol=1e-5)


# ---- TRL 1.12 ------------------------------------------------------------------------------------------------------
def test_advantages_and_returns_are_those_of_trl():
    advantages, returns = ours.advantages_and_returns(
        GIVEN["rewards"], GIVEN["values"], MASK, ARGS["gamma"], ARGS["lam"]
    )
    assert near(advantages, FOUND["advantages"])
    assert near(returns, FOUND["returns"])
    assert near(ours.whiten(advantages, MASK), FOUND["advantages whitened"])


def test_whitened_rewards_keep_their_mean_as_in_trl():
    assert near(ours.whiten(GIVEN["rewards"], MASK, shift_mean=False), FOUND["rewards whitened"])


def test_losses_and_clip_fractions_are_those_of_trl():
    clip = ARGS["cliprange"]
    losses, _, clipped = ours.policy_losses(
        GIVEN["new_logps"], GIVEN["logps"], FOUND["advantages whitened"], clip, clip
    )
    assert near(ours.masked_mean(losses, MASK), FOUND["policy loss"])
    assert near(ours.masked_mean(clipped, MASK), FOUND["policy clip fraction"])
    losses, clipped = ours.value_losses(GIVEN["new_values"], GIVEN["values"], FOUND["returns"], ARGS["cliprange_value"])
    assert near(ours.masked_mean(losses, MASK), FOUND["value loss"])
    assert near(ours.masked_mean(clipped, MASK), FOUND["value clip fraction"])


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_the_kl_penalty_is_that_of_trl(kind):
    kl = ours.kl_per_token(GIVEN["logps"], GIVEN["reference"], kind)
    assert near(-ARGS["kl_coef"] * kl, FOUND[f"penalty {kind}"])


# ---- loops ---------------------------------------------------------------------------------------------------------
def test_the_recursion_is_the_sum_that_defines_the_estimate():
    rewards, values, gamma, lam = GIVEN["rewards"].double(), GIVEN["values"].double(), 0.9, 0.8
    advantages, returns = ours.advantages_and_returns(rewards, values, MASK, gamma, lam)
    for row, length in enumerate(MASK.sum(1).tolist()):
        worth = [*values[row, :length].tolist(), 0.0]
        surprises = [rewards[row, t].item() + gamma * worth[t + 1] - worth[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (later - t) * surprises[later] for later in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected)
            assert returns[row, t].item() == pytest.approx(expected + worth[t])
        assert (advantages[row, length:] == 0).all()


def test_nothing_behind_an_answer_reaches_it():
    noise = 100 * ~MASK
    first = ours.advantages_and_returns(GIVEN["rewards"], GIVEN["values"], MASK, 1.0, 0.95)
    second = ours.advantages_and_returns(GIVEN["rewards"] + noise, GIVEN["values"] + noise, MASK, 1.0, 0.95)
    assert near(first[0], second[0])
    assert near(first[1] * MASK, second[1] * MASK)


def test_the_score_stands_at_the_last_token_and_the_penalty_at_each():
    kl = torch.tensor([[0.5, 0.25, 9.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = ours.token_rewards(torch.tensor([4.0, -1.0]), kl, mask, beta=0.1)
    assert near(rewards, torch.tensor([[-0.05, 3.975, 0.0], [-0.1, -0.2, -1.3]]))


# ---- the paper -----------------------------------------------------------------------------------------------------
def test_logits_of_the_papers_shares():
    assert ours.logit(torch.tensor([0.14, 0.9, 0.5]), 1e-4).tolist() == pytest.approx([-1.8153, 2.1972, 0], abs=5e-5)


def test_the_logit_of_a_sure_model_is_finite():
    sure = ours.logit(torch.tensor([0.0, 1.0]), 1e-4)
    assert sure.tolist() == pytest.approx([-math.log(9999), math.log(9999)], rel=1e-5)


def test_whitened_scores_have_mean_0_and_variance_1():
    white = ours.whiten(torch.tensor([3.0, -2.0, 7.5, 0.25]))
    assert (white.mean().item(), white.var().item()) == pytest.approx((0, 1), abs=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_equal_scores_become_0_and_not_nan(count):
    assert ours.whiten(torch.full((count,), 0.7)).abs().max() < 1e-3


# ---- the rest ------------------------------------------------------------------------------------------------------
def test_a_critic_that_knows_explains_all_and_one_that_says_the_mean_nothing():
    returns, mask = GIVEN["rewards"], MASK
    mean = returns[mask].mean() * torch.ones_like(returns)
    assert ours.explained_variance(returns, returns, mask) == 1
    assert ours.explained_variance(mean, returns, mask) == pytest.approx(0, abs=1e-6)
    assert ours.explained_variance(mean, mean, mask) is None


def test_beta_rises_when_kl_is_over_its_target_and_at_most_by_a_fifth():
    assert ours.adapt_beta(0.1, kl=6.6, target=6.0, share=0.5) == pytest.approx(0.1 * 1.05)
    assert ours.adapt_beta(0.1, kl=60, target=6.0, share=1) == pytest.approx(0.12)
    assert ours.adapt_beta(0.1, kl=0, target=6.0, share=1) == pytest.approx(0.08)
