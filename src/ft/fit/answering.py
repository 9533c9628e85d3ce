"""Stages that answer or score: what stands in memory while they do, and what reinforcement adds to training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.fit.activations import Batch, Regime, final_norm, head, key_value_cache, layer_forward, trained_forward
from ft.fit.activations import forward_casts as casts
from ft.fit.memory import Moment, moment
from ft.fit.standing import Setting, Standing, finished, row_length, trained
from ft.fit.training import kept, regime_of
from ft.fit.weights import paged, step_extra

Found = tuple[Standing | None, list[Moment], list[str]]

DRAWN = 40
"""Bytes a word of the vocabulary while a token is drawn: logits, probabilities, sorted and summed (float32, int64)."""


def answer_block(setting: Setting) -> str:
    """The name of the block that says how many answers are made, or scored, side by side."""
    return next((name for name in setting.stage.kind.blocks if "batch_size" in setting.block(name)), "")


def answer_options(setting: Setting) -> Mapping[str, Any]:
    return setting.block(answer_block(setting))


def answering(setting: Setting) -> Found:
    options = answer_options(setting)
    length, said = row_length(setting)
    standing = finished(setting, setting.stage.init)
    rows, new = int(options["batch_size"]), int(options["max_new_tokens"])
    return standing, [generation(standing, rows, length, new, setting)], [said]


def dialogues(setting: Setting) -> Found:
    """Whole dialogues: they grow until the model's positions are full, at worst."""
    options = answer_options(setting)
    standing = finished(setting, setting.stage.init)
    positions = standing.shape.positions or row_length(setting)[0]
    rows, new = int(options["batch_size"]), int(options["max_new_tokens"])
    found = generation(standing, rows, positions - new, new, setting)
    return standing, [found], [f"dialogues as long as the model's {positions:,} positions"]


def sampling(setting: Setting) -> Found:
    options, backend = answer_options(setting), setting.block("backend")["kind"]
    standing = finished(setting, setting.stage.init)
    length, said = row_length(setting)
    rows, new = int(options["batch_size"]), int(options["max_new_tokens"])
    moments, notes = [], [said]
    if backend == "transformers":
        moments.append(generation(standing, rows, length, new, setting))
    elif backend == "vllm":
        share = float(setting.block("backend")["gpu_memory"])
        moments.append(moment("generation", weights=standing.weights, cache=0, activations=0))
        notes.append(f"vLLM takes {share:.0%} of the GPU, weights and cache together")
    else:
        notes.append("a server answers: its memory is not this GPU's")
    for stage in setting.stage.inputs.values():
        moments.append(_scored(setting, finished(setting, stage), rows, length + new))
    return standing, moments, notes


def scoring(setting: Setting) -> Found:
    options = answer_options(setting)
    standing = finished(setting, setting.stage.init)
    length, said = row_length(setting)
    return standing, [_scored(setting, standing, int(options["batch_size"]), length)], [said]


def _scored(setting: Setting, standing: Standing, rows: int, length: int, autocast: bool = False) -> Moment:
    length = min(length, standing.shape.positions or length)
    batch = Batch(rows, length, rows > 1 and setting.padded)
    return moment(
        "scoring",
        weights=standing.weights,
        adapters=standing.adapters,
        activations=layer_forward(standing.shape, batch, inference(setting, standing, autocast)),
    )


def inference(setting: Setting, standing: Standing, autocast: bool = False) -> Regime:
    """How a model answers or scores: outside of autocast, but for PPO's rollouts."""
    model = setting.recipe.model
    return Regime(
        compute=2,
        stream=2 if standing.dtype != "float32" else 4,
        attention=(model.attn_implementation if model else None) or "sdpa",
        adapter=standing.adapter,
        unpacks=standing.unpacks("bfloat16"),
        autocast=autocast,
    )


def generation(
    standing: Standing, rows: int, prompt: int, new: int, setting: Setting, autocast: bool = False
) -> Moment:
    """Reading the prompts, or the last token of the longest answers: whichever is fuller. A layer's cache stands there
    twice when it grows."""
    shape, regime = standing.shape, inference(setting, standing, autocast)
    limit = shape.positions or prompt + new
    prompt, length = min(prompt, limit), min(prompt + new, limit)
    cache = key_value_cache(shape, rows, length, regime.compute)
    growing = 2 * cache // shape.layers
    drawn = DRAWN * rows * shape.vocab
    reading = layer_forward(shape, Batch(rows, prompt, rows > 1 and setting.padded), regime)
    full = {"weights": standing.weights, "adapters": standing.adapters}
    last = moment("generation", **full, cache=cache, activations=growing, logits=drawn)
    read = key_value_cache(shape, rows, prompt, regime.compute)
    first = moment("generation", **full, cache=read, activations=reading, logits=4 * rows * shape.vocab)
    return max(first, last, key=lambda one: one.total)


def reinforcing(setting: Setting) -> Found:
    """A policy that answers by TRL's trainer, is scored, and learns from it."""
    return _reinforcing(setting, has_critic=False)


def ppo(setting: Setting) -> Found:
    """The same by ft's own trainer, with a critic."""
    return _reinforcing(setting, has_critic=True)


def _reinforcing(setting: Setting, has_critic: bool) -> Found:
    """With an adapter all parts stand on one base: policy, reference, critic and reward models are adapters. Without
    one each is a model of its own. Answers are drawn, then scored, then learnt from; only weights and states stay.
    """
    train = setting.train
    standing = trained(setting)
    stands, regime = kept(setting, standing), regime_of(setting, standing)
    prompt, said = _prompt(setting)
    new = int(train["max_completion_length"])
    others, more = _others(setting, standing)
    critic = _critic(standing) if has_critic else {"weights": 0, "adapters": 0, "times": 1}
    full = {
        "weights": stands.weights + others + critic["weights"],
        "adapters": stands.adapters + more + critic["adapters"],
        "optimiser": 0 if paged(stands.optimizer) else stands.states * critic["times"],
    }
    rows = int(train["per_device_train_batch_size"])
    side_by_side = _answers(setting)
    answers = generation(standing, side_by_side, prompt, new, setting, autocast=has_critic)
    if has_critic:  # it and the reward models then read all of them at once
        read = _scored(setting, standing, side_by_side, prompt + new, autocast=True)
        answers = max(answers, read, key=lambda one: one.total)
    rollout = {**answers.parts, **full}
    batch = Batch(rows, prompt + new, rows > 1 and setting.padded)
    stay, working = trained_forward(standing.shape, batch, regime)
    loss = head(standing.shape, rows * new, regime, gradients=True)
    at_head = final_norm(standing.shape, batch, regime) + (casts(standing.shape, regime) if not stands.gathered else 0)
    acts, logits = (stay + at_head, loss) if at_head + loss > working else (stay + working, 0)
    moments = [
        moment("rollout", **{part: size for part, size in rollout.items() if part != "overhead"}),
        moment(
            "training step",
            **full,
            gradients=stands.gradients * critic["times"],
            activations=acts + stands.gathered,
            logits=logits,
        ),
        moment(
            "optimizer step",
            **{**full, "optimiser": stands.states * critic["times"]},
            gradients=stands.gradients * critic["times"],
            activations=step_extra(stands.optimizer, stands.trained),
        ),
    ]
    return standing, moments, [said]


def _answers(setting: Setting) -> int:
    """How many answers a GPU draws side by side: TRL all of a generation batch, PPO at most `rollout_batch_size`."""
    train, processes = setting.train, setting.sharding.processes
    rows = int(train["per_device_train_batch_size"])
    rounds = int(train.get("steps_per_generation") or setting.accumulation)
    batch = train.get("generation_batch_size")
    answers = -(-int(batch) // processes) if batch else rows * rounds
    return min(answers, int(train.get("rollout_batch_size", answers)))


def _prompt(setting: Setting) -> tuple[int, str]:
    asked = setting.longest or setting.block("rows").get("max_prompt_length")
    if asked:
        return int(asked), f"prompts of {int(asked):,} tokens"
    return row_length(setting)


def _others(setting: Setting, standing: Standing) -> tuple[int, int]:
    """(weights, adapters) of the reward models: adapters on the policy's base where they can stand there."""
    weights = adapters = 0
    for name in setting.stage.kind.objectives:
        if name not in setting.stage.inputs:
            continue
        model = finished(setting, setting.stage.inputs[name])
        shared = model.adapter is not None and standing.adapter is not None and not setting.train.get("use_vllm")
        weights += 0 if shared else model.weights
        adapters += model.adapters
    return weights, adapters


def _critic(standing: Standing) -> dict[str, int]:
    """Beside the policy PPO trains a critic as large as it, an adapter or a model."""
    if standing.adapter is None:
        return {"weights": standing.weights, "adapters": 0, "times": 2}
    return {"weights": 0, "adapters": standing.adapters, "times": 2}
