"""What is sampled, and what is learnt from it: random prompts on tiny models, against plain transformers row by row."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

import pytest
import torch
import trl
from tests.properties.test_against_plain_libraries import Models, models, plain_model  # noqa: F401  a fixture

import tiny
from ft.models.generation.engine import Completion, Engine, Request
from ft.models.generation.sampling import Sampling, uniform_numbers
from properties import plain

BETA, CLIP, LENGTH, TEMPERATURE = 0.3, 0.2, 8, 2.0
TRAIN = {
    **{"per_device_train_batch_size": 16, "num_generations": 2, "num_iterations": 2, "max_steps": 2, "beta": BETA},
    **{"max_completion_length": LENGTH, "temperature": TEMPERATURE, "learning_rate": 0.02, "epsilon": CLIP},
    **{"gradient_checkpointing": False, "save_strategy": "no", "eval_strategy": "no", "max_grad_norm": 1e9},
    **{"load_best_model_at_end": False, "eval_on_start": False, "optim": "sgd", "disable_dropout": True},
}


def sample_alone(model: Any, request: Request, sampling: Sampling) -> tuple[list[int], list[float]]:
    """A completion token by token without any cache: a token is where its number falls in the sum of probabilities,
    of those tokens that together have `top_p`."""
    numbers, ids, logprobs = uniform_numbers([request.key], sampling), list(request.prompt_ids), []
    assert numbers is not None
    for number in numbers[0].double():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double() / sampling.temperature
        chances = logits.softmax(-1)
        likeliest, kept, total = chances.argsort(descending=True), torch.zeros_like(chances), 0.0
        for token in likeliest.tolist():
            if total < sampling.top_p:
                kept[token] = chances[token]
            total += float(chances[token])
        token = int((kept.cumsum(0) / kept.sum() <= number).sum())
        ids.append(token)
        logprobs.append(float(logits.log_softmax(-1)[token]))
    return ids[len(request.prompt_ids) :], logprobs


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_what_is_sampled_follows_from_seed_and_key_alone(architecture, case, models, near):  # noqa: F811
    draw, words = random.Random(case), tiny.tokenizer()
    model = plain_model(models(architecture)).eval()
    sampling = Sampling(5, draw.uniform(0.5, 2), draw.choice([1.0, 0.8]), seed=draw.randrange(100))
    requests = [Request(words(plain.random_text(draw))["input_ids"], f"row {number}") for number in range(5)]
    with torch.no_grad():
        alone = {request.key: sample_alone(model, request, sampling) for request in requests}
        for size, reuse in ((5, True), (2, True), (3, False)):
            draw.shuffle(requests)
            for found in Engine(model, [], reuse_cache=reuse).complete(requests, sampling, batch_size=size):
                assert_the_same(found, alone[found.key], near)


def assert_the_same(found: Completion, alone: tuple[list[int], list[float]], near: Any) -> None:
    assert found.completion_ids == alone[0]
    apart = max(abs(ours - theirs) for ours, theirs in zip(found.logprobs, alone[1], strict=True))
    near("log-probabilities of sampled tokens, nats", apart, 2e-5)


def token_logprobs(model: Any, inputs: dict[str, Any], row: int) -> torch.Tensor:
    """Of the real tokens of one answer behind its prompt, alone in its batch, at the temperature of sampling."""
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()]
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
    logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
    return (logits / TEMPERATURE).log_softmax(-1).gather(1, answer[:, None])[:, 0]


def reward_of(inputs: dict[str, Any], row: int) -> float:
    """1 where the colour of the thing that is asked for stands in the answer, 1 less where the answer does not end."""
    words = tiny.tokenizer()
    asked = words.decode(inputs["prompt_ids"][row])
    colour = next(c for thing, c in zip(tiny.THINGS, tiny.COLOURS, strict=True) if f" {thing}?" in asked)
    ids = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()].tolist()
    ended = ids[-1] == words.eos_token_id
    text = words.decode(ids[:-1] if ended else ids).lower()
    return float(bool(re.search(rf"\b{colour}\b", text))) - (not ended)


def other_answer(inputs: dict[str, Any], row: int) -> int:
    """The row of the same prompt's other answer; TRL mixes the rows of a batch."""
    prompts = inputs["prompt_ids"]
    return next(n for n in range(len(prompts)) if n != row and torch.equal(prompts[n], prompts[row]))


def rloo_loss(policy: Any, old: Any, reference: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """REINFORCE with each answer's reward against the mean of its prompt's others, the KL taken off the reward, and
    the ratio of whole answers clipped (arXiv:2402.14740)."""
    rows = range(len(inputs["prompt_ids"]))
    before = [token_logprobs(old, inputs, row).sum() for row in rows]
    kl = [before[row] - token_logprobs(reference, inputs, row).sum() for row in rows]
    rewards = [reward_of(inputs, row) - BETA * float(kl[row]) for row in rows]
    losses = []
    for row in rows:
        advantage = rewards[row] - rewards[other_answer(inputs, row)]
        ratio = (token_logprobs(policy, inputs, row).sum() - before[row]).exp()
        losses.append(-torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage))
    return torch.stack(losses).mean()


def grpo_loss(policy: Any, old: Any, reference: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The mean over answers of the mean over their tokens: clipped ratio times the reward's distance from the mean of
    its prompt's answers in standard deviations, and beta times an estimate of the KL (arXiv:2402.03300, eq. 3, 4)."""
    rows = range(len(inputs["prompt_ids"]))
    rewards = [reward_of(inputs, row) for row in rows]
    groups = torch.tensor([[rewards[row], rewards[other_answer(inputs, row)]] for row in rows])
    advantages = (groups[:, 0] - groups.mean(1)) / (groups.std(1) + 1e-4)
    losses = []
    for row in rows:
        now, was, base = (token_logprobs(model, inputs, row) for model in (policy, old, reference))
        ratio, kl = (now - was).exp(), (base - now).exp() - (base - now) - 1
        clipped = torch.min(ratio * advantages[row], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[row])
        losses.append((BETA * ratio * kl - clipped).mean())  # what the old policy drew estimates the new one's KL so
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_the_losses_of_two_steps_are_those_of_the_papers(kind, case, ending, near, tmp_path, monkeypatch):
    trainer_class = {"rloo": trl.RLOOTrainer, "grpo": trl.GRPOTrainer}[kind]
    steps: list[tuple[Any, dict[str, Any], float]] = []
    loss_of = trainer_class._compute_loss

    def compute_loss(trainer: Any, model: Any, inputs: dict[str, Any]) -> Any:
        loss = loss_of(trainer, model, inputs)
        steps.append((copy.deepcopy(trainer.model.state_dict()), dict(inputs), float(loss.detach())))
        return loss

    monkeypatch.setattr(trainer_class, "_compute_loss", compute_loss)
    draw = random.Random(case)
    rows = [{"prompt": f"{n} {tiny.THINGS[n % 8]}?", "answer": tiny.COLOURS[n % 8]} for n in draw.sample(range(90), 12)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train = {**TRAIN, **({"loss_type": "grpo"} if kind == "grpo" else {})}
    stage = {"kind": kind, "data": [{"path": str(file)}], "train": train, "guard": {"kl": 1e6, "cut": 1.0, "kept": 0}}
    stage |= {"reward": {"rewards": {"answer": 1.0}}}
    recipe = tiny.recipe(tmp_path, [stage], model=str(ending), seed=case + 1)
    tiny.make(tiny.planned(recipe, tmp_path / "runs"), kind)
    reference, policy = plain_model(ending), plain_model(ending)
    loss = {"rloo": rloo_loss, "grpo": grpo_loss}[kind]
    for weights, inputs, found in steps:
        policy.load_state_dict(weights)
        with torch.no_grad():  # one batch serves both steps
            expected = float(loss(policy, reference, reference, inputs))
        near(f"{kind} losses of two steps, nats", abs(found - expected), 2e-5)
    assert len(steps) == 2
    assert steps[0][2] != steps[1][2]
