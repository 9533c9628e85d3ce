"""Stages that answer or score: what stands in memory while they do, and what reinforcement adds to training."""

from __future__ import annotations

from ft.fit.activations import Batch, Regime, final_norm, head, key_value_cache, layer_forward, trained_forward
from ft.fit.activations import forward_casts as casts
from ft.fit.memory import Moment, moment
from ft.fit.standing import Setting, Standing, finished, row_length, trained
from ft.fit.training import kept, regime_of
from ft.fit.weights import paged, step_extra

Found = tuple[Standing | None, list[Moment], list[str]]

DRAWN = 40
"""Bytes a word of the vocabulary while a token is drawn: logits, probabilities, sorted and summed (float32, int64)."""


def answering(setting: Setting) -> Found:
    options = setting.block("evaluate")
    length, said = row_length(setting)
    standing = finished(setting, setting.stage.init)
    rows, new = int(options.get("batch_size", 64)), int(options.get("max_new_tokens", 64))
    return standing, [generation(standing, rows, length, new, setting)], [said]


def dialogues(setting: Setting) -> Found:
    """Whole dialogues: they grow until the model's positions are full, at worst."""
    options = setting.block(setting.stage.kind_name)
    standing = finished(setting, setting.stage.init)
    positions = standing.shape.positions or row_length(setting)[0]
    rows, new = int(options.get("batch_size", 64)), int(options.get("max_new_tokens", 64))
    found = generation(standing, rows, positions - new, new, setting)
    return standing, [found], [f"dialogues as long as the model's {positions:,} positions"]


def sampling(setting: Setting) -> Found:
    options, backend = setting.block("sample"), setting.block("backend").get("kind", "transformers")
    standing = finished(setting, setting.stage.init)
    length, said = row_length(setting)
    rows, new = int(options.get("batch_size", 64)), int(options.get("max_new_tokens", 64))
    moments, notes = [], [said]
    if backend == "transformers":
        moments.append(generation(standing, rows, length, new, setting))
    elif backend == "vllm":
        share = float(setting.block("backend").get("gpu_memory", 0.9))
        moments.append(moment("generation", weights=standing.weights, cache=0, activations=0))
        notes.append(f"vLLM takes {share:.0%} of the GPU, weights and cache together")
    else:
        notes.append("a server answers: its memory is not this GPU's")
    for stage in setting.stage.inputs.values():
        moments.append(_scored(setting, finished(setting, stage), rows, length + new))
    return standing, moments, notes


def scoring(setting: Setting) -> Found:
    options = setting.block("card")
    standing = finished(setting, setting.stage.init)
    length, said = row_length(setting)
    return standing, [_scored(setting, standing, int(options.get("batch_size", 64)), length)], [said]


def _scored(setting: Setting, standing: Standing, rows: int, length: int) -> Moment:
    length = min(length, standing.shape.positions or length)
    batch = Batch(rows, length, rows > 1 and setting.padded)
    return moment(
        "scoring",
        weights=standing.weights,
        adapters=standing.adapters,
        activations=layer_forward(standing.shape, batch, inference(setting, standing)),
    )


def inference(setting: Setting, standing: Standing) -> Regime:
    """How a model answers or scores: outside of autocast, but for PPO's rollouts."""
    model = setting.recipe.model
    return Regime(
        compute=2,
        stream=2 if standing.dtype != "float32" else 4,
        attention=(model.attn_implementation if model else None) or "sdpa",
        adapter=standing.adapter,
        unpacks=standing.unpacks("bfloat16"),
        autocast=setting.stage.kind_name == "ppo",
    )


def generation(standing: Standing, rows: int, prompt: int, new: int, setting: Setting) -> Moment:
    """Reading the prompts, or the last token of the longest answers: whichever is fuller. A layer's cache stands there
    twice when it grows."""
    shape, regime = standing.shape, inference(setting, standing)
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
    """A policy that answers, is scored, and learns from it.

    With an adapter all parts stand on one base: policy, reference, critic (PPO) and reward models are adapters. Without
    one each is a model of its own. Answers are drawn, then scored, then learnt from; only weights and states stay.
    """
    train, stage = setting.train, setting.stage
    standing = trained(setting)
    stands, regime = kept(setting, standing), regime_of(setting, standing)
    prompt, said = _prompt(setting)
    new = int(train.get("max_completion_length") or 256)
    others, more = _others(setting, standing)
    critic = _critic(setting, standing)
    full = {
        "weights": stands.weights + others + critic["weights"],
        "adapters": stands.adapters + more + critic["adapters"],
        "optimiser": 0 if paged(stands.optimizer) else stands.states * critic["times"],
    }
    rows = int(train.get("per_device_train_batch_size", 8))
    drawn = _answers(setting)
    answers = generation(standing, drawn, prompt, new, setting)
    if stage.kind_name == "ppo":  # critic and reward models then read all of them at once
        answers = max(answers, _scored(setting, standing, drawn, prompt + new), key=lambda one: one.total)
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
    rows = int(train.get("per_device_train_batch_size", 8))
    rounds = int(train.get("steps_per_generation") or setting.accumulation)
    batch = train.get("generation_batch_size")
    answers = -(-int(batch) // processes) if batch else rows * rounds
    return min(answers, int(train.get("rollout_batch_size", 64))) if setting.stage.kind_name == "ppo" else answers


def _prompt(setting: Setting) -> tuple[int, str]:
    asked = setting.longest or setting.block("rows").get("max_prompt_length")
    asked = asked or setting.train.get("max_prompt_length")
    if asked:
        return int(asked), f"prompts of {int(asked):,} tokens"
    return row_length(setting)


def _others(setting: Setting, standing: Standing) -> tuple[int, int]:
    """(weights, adapters) of the reward models: adapters on the policy's base where they can stand there."""
    weights = adapters = 0
    for name, stage in setting.stage.inputs.items():
        if name == "critic":
            continue
        model = finished(setting, stage)
        shared = model.adapter is not None and standing.adapter is not None and not setting.train.get("use_vllm")
        weights += 0 if shared else model.weights
        adapters += model.adapters
    return weights, adapters


def _critic(setting: Setting, standing: Standing) -> dict[str, int]:
    """PPO trains a critic beside the policy: as large as it, an adapter or a model."""
    if setting.stage.kind_name != "ppo":
        return {"weights": 0, "adapters": 0, "times": 1}
    if standing.adapter is None:
        return {"weights": standing.weights, "adapters": 0, "times": 2}
    return {"weights": 0, "adapters": standing.adapters, "times": 2}
