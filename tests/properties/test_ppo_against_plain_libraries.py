"""PPO on random prompts, architectures and settings: what plain transformers make of the same answers, row by row."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from tests.properties.test_against_plain_libraries import models, plain_model  # noqa: F401  a fixture
from transformers import AutoModelForSequenceClassification

import tiny
import tiny_rl
from ft.rl.ppo import PPOConfig, PPOTrainer
from ft.rl.rollout_batch import Rollouts
from properties import plain

ROWS = 8
WEIGHT = 0.7  # of the function beside the reward model


@dataclass
class Step:
    """Weights before an optimizer's step, the batch of answers it learns from, and the loss that ft found."""

    weights: dict[str, torch.Tensor]
    rollouts: Rollouts
    loss: float


@dataclass
class Answer:
    """What plain models make of one answer: (N,) of each of its tokens; `score` before whitening."""

    logprobs: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    score: float


class Truth:
    """Policy, critic, reference and reward model as transformers opens them, each row read alone."""

    def __init__(self, base: Any, judge: Any, temperature: float):
        self.policy, self.reference, self.words = plain_model(base), plain_model(base), tiny.tokenizer()
        self.critic, self.judge = scorer(base), scorer(judge)
        self.temperature = temperature

    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for name, value in weights.items():
            parts[name.startswith("critic.")][name.removeprefix("critic.")] = value
        self.policy.load_state_dict(parts[0])
        self.critic.load_state_dict(parts[1])

    def logprobs(self, model: Any, ids: torch.Tensor, start: int) -> torch.Tensor:
        logits = model(input_ids=ids[None]).logits[0, start - 1 : -1] / self.temperature
        return logits.log_softmax(-1).gather(1, ids[start:, None])[:, 0]

    def values(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        hidden = self.critic.base_model(input_ids=ids[None]).last_hidden_state[0, start - 1 : -1]
        return (hidden @ self.critic.score.weight.T)[:, 0]

    def answer(self, ids: torch.Tensor, start: int, question: list[plain.Message]) -> Answer:
        text = self.words.decode(ids[start:], skip_special_tokens=True).strip()
        talk = plain.chatml(self.words, [*question, {"role": "assistant", "content": text}])
        score = float(plain.score(self.judge, talk)) + WEIGHT * (int(ids[start:].sum()) % 7) / 7
        logprobs, reference = (self.logprobs(model, ids, start) for model in (self.policy, self.reference))
        return Answer(logprobs, reference, self.values(ids, start), score)


def scorer(folder: Any) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=1, dtype=torch.float32).eval()


def whitened(values: torch.Tensor, shift: bool = True) -> torch.Tensor:
    white = (values - values.mean()) / (values.var() + 1e-8).sqrt()
    return white if shift else white + values.mean()


def rewards_of(answers: Sequence[Answer], ended: Sequence[bool], args: PPOConfig) -> list[torch.Tensor]:
    """-beta KL at each token, the score at the last one (arXiv:2307.09288, section 3.2.3)."""
    scores = torch.tensor([one.score for one in answers], dtype=torch.float64)
    scores = whitened(scores) if args.whiten_scores else scores
    rewards = []
    for one, score, has_ended in zip(answers, scores, ended, strict=True):
        ratio = one.logprobs - one.reference
        kl = ratio if args.kl_estimator == "k1" else (-ratio).exp() - 1 + ratio
        reward = -args.beta * kl.double()
        reward[-1] += score - (0 if has_ended else args.missing_eos_penalty or 0)
        rewards.append(reward)
    if args.whiten_rewards:
        lengths = [len(reward) for reward in rewards]
        rewards = list(whitened(torch.cat(rewards), shift=False).split(lengths))
    return rewards


def advantages_of(rewards: torch.Tensor, values: torch.Tensor, args: PPOConfig) -> torch.Tensor:
    """The sum that defines the estimate: of all later surprises, each step (gamma lambda) less (arXiv:1506.02438)."""
    following = torch.cat([values[1:], values.new_zeros(1)])
    surprises = rewards + args.gamma * following - values
    places = torch.arange(len(values))
    discounts = (args.gamma * args.lam) ** (places[None] - places[:, None]).clamp(min=0).double()
    return (discounts.triu() * surprises[None]).sum(1)


def loss_of(now: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float) -> torch.Tensor:
    ratio = (now - old).exp().double()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss_of(now: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    near = torch.max(torch.min(now, old + clip), old - clip)
    return 0.5 * torch.max((now - returns) ** 2, (near - returns) ** 2)


def settings(draw: random.Random) -> dict[str, Any]:
    return {
        **{"generation_batch_size": ROWS, "per_device_train_batch_size": ROWS, "num_iterations": 2, "max_steps": 4},
        **{"gamma": draw.uniform(0.8, 1), "lam": draw.uniform(0.7, 1), "beta": draw.uniform(0.05, 0.5)},
        **{"kl_estimator": draw.choice(["k1", "k3"]), "missing_eos_penalty": draw.choice([0.0, 1.0])},
        **{"whiten_scores": draw.random() < 0.5, "whiten_rewards": draw.random() < 0.5},
        **{
            "normalize_advantages": draw.random() < 0.8,
            "temperature": draw.uniform(0.7, 1.3),
            "seed": draw.randrange(99),
        },
        **{"cliprange_value": draw.uniform(0.05, 0.3), "epsilon": draw.uniform(0.05, 0.3), "vf_coef": draw.random()},
        **{"reward_weights": [WEIGHT], "max_grad_norm": 1e9, "optim": "sgd", "learning_rate": 0.02},
    }


def steps_of(trainer: PPOTrainer) -> list[Step]:
    """Train, and keep what each step began with."""
    steps: list[Step] = []
    loss = trainer.loss

    def keep(wrapped: Any, rollouts: Rollouts, step: int) -> Any:
        weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
        found = loss(wrapped, rollouts, step)
        steps.append(Step(weights, copy.deepcopy(rollouts), float(found.detach())))
        return found

    trainer.loss = keep  # type: ignore[method-assign]
    trainer.train()
    return steps


def questions(draw: random.Random) -> list[dict[str, Any]]:
    return [{"prompt": plain.random_dialogue(draw, 1)[:-1], "axis": "helpful"} for _ in range(2 * ROWS)]


def test_ppo_has_the_numbers_of_the_papers_equations(case, models, near, tmp_path):  # noqa: F811
    draw = random.Random(case)
    base = models(draw.choice(sorted(plain.ARCHITECTURES)))
    judge = tiny_rl.save_whole_reward_model(tmp_path / "judge", base, seed=case)
    actors = tiny_rl.end_early(tiny_rl.separate(base, helpful=judge))
    args = PPOConfig(**{**tiny_rl.TRAIN, "output_dir": str(tmp_path), **settings(draw)})
    rows = questions(draw)
    trainer = PPOTrainer(actors, [tiny_rl.sum_of_ids], args, Dataset.from_list(rows))
    steps, truth = steps_of(trainer), Truth(base, judge, args.temperature)
    by_ids = {tuple(actors.renderer.prompt(row["prompt"])): row["prompt"] for row in rows}
    assert len(steps) == 4
    for first, second in (steps[:2], steps[2:]):
        truth.load(first.weights)
        compare(first, second, truth, by_ids, args, near)


def compare(first: Step, second: Step, truth: Truth, by_ids: Any, args: PPOConfig, near: Any) -> None:
    """Two steps on one batch of answers."""
    found = first.rollouts
    places = [(int(n), int(n + m)) for n, m in zip(found.prompt_lengths, found.completion_lengths, strict=True)]
    rows = [ids[:end] for ids, (_, end) in zip(found.input_ids, places, strict=True)]
    with torch.no_grad():
        answers = [
            truth.answer(ids, start, by_ids[tuple(ids[:start].tolist())])
            for ids, (start, _) in zip(rows, places, strict=True)
        ]
        rewards = rewards_of(answers, found.has_eos.tolist(), args)
        values = [one.values.double() for one in answers]
        advantages = [advantages_of(*pair, args) for pair in zip(rewards, values, strict=True)]
        returns = [one + value for one, value in zip(advantages, values, strict=True)]
        scaled = torch.cat(advantages)
        scaled = whitened(scaled) if args.normalize_advantages else scaled
        ours = {name: getattr(found, name)[found.mask] for name in ("logprobs", "ref_logprobs", "values", "returns")}
        theirs = {
            "logprobs": [one.logprobs for one in answers],
            "ref_logprobs": [one.reference for one in answers],
            "values": values,
            "returns": returns,
        }
        for name, parts in theirs.items():
            near(f"PPO's {name}", float((ours[name] - torch.cat(parts)).abs().max()), 2e-5)
        near("PPO's advantages", float((found.advantages[found.mask] - scaled).abs().max()), 2e-5)
        old, old_values = torch.cat(theirs["logprobs"]), torch.cat(values)
        for step in (first, second):
            truth.load(step.weights)
            pairs = list(zip(rows, (start for start, _ in places), strict=True))
            now = torch.cat([truth.logprobs(truth.policy, *pair) for pair in pairs])
            now_values = torch.cat([truth.values(*pair).double() for pair in pairs])
            loss = loss_of(now, old, scaled, args.epsilon).mean()
            loss += (
                args.vf_coef * value_loss_of(now_values, old_values, torch.cat(returns), args.cliprange_value).mean()
            )
            near("PPO's loss", abs(step.loss - float(loss)), 2e-5)
    assert first.loss != second.loss
