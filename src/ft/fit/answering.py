"""Stages that answer or score: what stands in memory while they do, and what reinforcement adds to training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.fit.activations import Batch, ComputeMode, final_norm, head, key_value_cache, layer_forward, trained_forward
from ft.fit.activations import forward_casts as casts
from ft.fit.memory import Moment, moment
from ft.fit.setting import Estimate, ModelInMemory, Setting, finished_model, model_as_loaded, model_to_train, row_length
from ft.fit.training import compute_mode, resident_memory
from ft.fit.weights import paged, step_extra
from ft.models.generation.decoding import DecodingOptions
from ft.recipe import ModelSource

SAMPLING_BYTES = 40
"""Bytes a word of the vocabulary while a token is drawn: logits, probabilities, sorted and summed (float32, int64)."""


def answer_block(setting: Setting) -> str:
    """The name of the block that says how many answers are made, or scored, side by side."""
    return next((name for name in setting.stage.kind.blocks if "batch_size" in setting.block(name)), "")


def answer_options(setting: Setting) -> Mapping[str, Any]:
    return setting.block(answer_block(setting))


def _rows(setting: Setting) -> int:
    """Rows of the cache while answers are made, or read: beams have one each."""
    decoding = DecodingOptions(**setting.stage.blocks.get("decoding", {}))
    return int(answer_options(setting)["batch_size"]) * decoding.sampling().beams


def answering(setting: Setting) -> Estimate:
    options = answer_options(setting)
    length, note = row_length(setting)
    model = finished_model(setting, setting.stage.init)
    rows, new = _rows(setting), int(options["max_new_tokens"])
    return model, [generation(model, rows, length, new, setting)], [note]


def dialogues(setting: Setting) -> Estimate:
    """Whole dialogues: they grow until the model's positions are full, at worst."""
    options = answer_options(setting)
    model = finished_model(setting, setting.stage.init)
    positions = model.shape.positions or row_length(setting)[0]
    rows, new = _rows(setting), int(options["max_new_tokens"])
    longest = generation(model, rows, positions - new, new, setting)
    return model, [longest], [f"dialogues as long as the model's {positions:,} positions"]


def sampling(setting: Setting) -> Estimate:
    options = answer_options(setting)
    model = finished_model(setting, setting.stage.init)
    length, note = row_length(setting)
    rows, new = _rows(setting), int(options["max_new_tokens"])
    moments, notes = _by_backend(setting, model, rows, length, new)
    for stage in setting.stage.inputs.values():
        moments.append(_scoring_moment(setting, finished_model(setting, stage), rows, length + new))
    return model, moments, [note, *notes]


def _by_backend(
    setting: Setting, model: ModelInMemory, rows: int, length: int, new: int
) -> tuple[list[Moment], list[str]]:
    """What the model that `backend:` runs has in this GPU's memory, and notes."""
    backend = setting.block("backend")
    if backend["kind"] == "transformers":
        return [generation(model, rows, length, new, setting)], []
    if backend["kind"] == "vllm":
        weights = moment("generation", weights=model.weights, cache=0, activations=0)
        return [weights], [f"vLLM takes {float(backend['gpu_memory']):.0%} of the GPU, weights and cache together"]
    return [], ["a server answers: its memory is not this GPU's"]


def judging(setting: Setting) -> Estimate:
    """Both models answer one after the other; then the judge reads both answers, and replies in words or by a score."""
    options, inputs = answer_options(setting), setting.stage.inputs
    length, note = row_length(setting)
    rows, new = _rows(setting), int(options["max_new_tokens"])
    models = [finished_model(setting, name) for name in (setting.stage.init, inputs.get("other"))]
    moments, notes = [generation(model, rows, length, new, setting) for model in models], [note]
    if "scorer" in inputs:
        moments.append(_scoring_moment(setting, finished_model(setting, inputs["scorer"]), rows, length + new))
    elif options["prompt"]:  # a model or a server replies in words
        _, judge_moments, judge_notes = _replying(setting, "judge", length + 2 * new)
        moments, notes = [*moments, *judge_moments], [*notes, *judge_notes]
    return models[0], moments, notes


def replying(setting: Setting) -> Estimate:
    """A model that replies in words to what a stage asks, if not a server or a program does."""
    length, note = row_length(setting)
    role = next(iter(setting.stage.kind.inputs))
    model, moments, notes = _replying(setting, role, length)
    return model, moments, [*([note] if moments else []), *notes]


def _replying(setting: Setting, role: str, length: int) -> Estimate:
    options = answer_options(setting)
    if options["kind"] == "program":
        return None, [], ["a program replies: it needs no memory of a GPU"]
    if setting.block("backend")["kind"] == "server":
        return None, [], ["a server answers: its memory is not this GPU's"]
    source = ModelSource(options["model"], options["revision"]) if options["model"] else None
    model = model_as_loaded(setting, source) if source else finished_model(setting, setting.stage.inputs.get(role))
    rows, reply = _rows(setting), int(options["reply_tokens"])
    return model, *_by_backend(setting, model, rows, length, reply)


def summarizing(setting: Setting) -> Estimate:
    """Each model writes its summaries, one after the other; then the judge reads them."""
    options, inputs = answer_options(setting), setting.stage.inputs
    length, note = row_length(setting)
    rows, new = _rows(setting), int(options["max_new_tokens"])
    names = [setting.stage.init, inputs.get("baseline"), *([inputs["other"]] if "other" in inputs else [])]
    models = [finished_model(setting, name) for name in names]
    moments = [generation(model, rows, length, new, setting) for model in models]
    _, judge_moments, judge_notes = _replying(setting, "judge", new)
    return models[0], [*moments, *judge_moments], [note, *judge_notes]


def asking(setting: Setting) -> Estimate:
    """lm-evaluation-harness reads a batch of questions at once, with the logits of every position."""
    model = finished_model(setting, setting.stage.init)
    length, note = row_length(setting)
    batch, mode = Batch(_rows(setting), length, setting.padded), inference(setting, model)
    reading = moment(
        "questions",
        weights=model.weights,
        adapters=model.adapters,
        activations=layer_forward(model.shape, batch, mode),
        logits=2 * mode.compute * batch.rows * batch.length * model.shape.vocab,  # and their log-softmax beside them
    )
    return model, [reading], [note]


def scoring(setting: Setting) -> Estimate:
    model = finished_model(setting, setting.stage.init)
    length, note = row_length(setting)
    return model, [_scoring_moment(setting, model, _rows(setting), length)], [note]


def _scoring_moment(setting: Setting, model: ModelInMemory, rows: int, length: int, autocast: bool = False) -> Moment:
    length = min(length, model.shape.positions or length)
    batch = Batch(rows, length, rows > 1 and setting.padded)
    return moment(
        "scoring",
        weights=model.weights,
        adapters=model.adapters,
        activations=layer_forward(model.shape, batch, inference(setting, model, autocast)),
    )


def inference(setting: Setting, model: ModelInMemory, autocast: bool = False) -> ComputeMode:
    """How a model answers or scores: outside of autocast, but for PPO's rollouts."""
    source = setting.recipe.model_of(setting.stage)
    return ComputeMode(
        compute=2,
        stream=2 if model.dtype != "float32" else 4,
        attention=(source.attn_implementation if source else None) or "sdpa",
        adapter=model.adapter,
        unpacks=model.unpacks("bfloat16"),
        autocast=autocast,
    )


def generation(
    model: ModelInMemory, rows: int, prompt: int, new: int, setting: Setting, autocast: bool = False
) -> Moment:
    """Reading the prompts, or the last token of the longest answers: whichever is fuller. A layer's cache stands there
    twice when it grows."""
    shape, mode = model.shape, inference(setting, model, autocast)
    limit = shape.positions or prompt + new
    prompt, length = min(prompt, limit), min(prompt + new, limit)
    cache = key_value_cache(shape, rows, length, mode.compute)
    growing = 2 * cache // shape.layers
    sampled = SAMPLING_BYTES * rows * shape.vocab
    reading = layer_forward(shape, Batch(rows, prompt, rows > 1 and setting.padded), mode)
    full = {"weights": model.weights, "adapters": model.adapters}
    last = moment("generation", **full, cache=cache, activations=growing, logits=sampled)
    read = key_value_cache(shape, rows, prompt, mode.compute)
    first = moment("generation", **full, cache=read, activations=reading, logits=4 * rows * shape.vocab)
    return max(first, last, key=lambda one: one.total)


def reinforcing(setting: Setting) -> Estimate:
    """A policy that answers by TRL's trainer, is scored, and learns from it."""
    return _reinforcing(setting, has_critic=False)


def ppo(setting: Setting) -> Estimate:
    """The same by ft's own trainer, with a critic."""
    return _reinforcing(setting, has_critic=True)


def _reinforcing(setting: Setting, has_critic: bool) -> Estimate:
    """With an adapter all parts stand on one base: policy, reference, critic and reward models are adapters. Without
    one each is a model of its own. Answers are drawn, then scored, then learnt from; only weights and states stay.
    """
    train = setting.train
    model = model_to_train(setting)
    resident, mode = resident_memory(setting, model), compute_mode(setting, model)
    prompt, note = _prompt(setting)
    new = int(train["max_completion_length"])
    reward_weights, reward_adapters = _reward_models(setting, model)
    critic = _critic(model) if has_critic else {"weights": 0, "adapters": 0, "times": 1}
    full = {
        "weights": resident.weights + reward_weights + critic["weights"],
        "adapters": resident.adapters + reward_adapters + critic["adapters"],
        "optimiser": 0 if paged(resident.optimizer) else resident.states * critic["times"],
    }
    rows = int(train["per_device_train_batch_size"])
    side_by_side = _answers(setting)
    answers = generation(model, side_by_side, prompt, new, setting, autocast=has_critic)
    if has_critic:  # it and the reward models then read all of them at once
        read = _scoring_moment(setting, model, side_by_side, prompt + new, autocast=True)
        answers = max(answers, read, key=lambda one: one.total)
    rollout = {**answers.parts, **full}
    batch = Batch(rows, prompt + new, rows > 1 and setting.padded)
    saved, working = trained_forward(model.shape, batch, mode)
    loss = head(model.shape, rows * new, mode, gradients=True)
    at_head = final_norm(model.shape, batch, mode) + (casts(model.shape, mode) if not resident.gathered else 0)
    acts, logits = (saved + at_head, loss) if at_head + loss > working else (saved + working, 0)
    moments = [
        moment("rollout", **{part: size for part, size in rollout.items() if part != "overhead"}),
        moment(
            "training step",
            **full,
            gradients=resident.gradients * critic["times"],
            activations=acts + resident.gathered,
            logits=logits,
        ),
        moment(
            "optimizer step",
            **{**full, "optimiser": resident.states * critic["times"]},
            gradients=resident.gradients * critic["times"],
            activations=step_extra(resident.optimizer, resident.trained),
        ),
    ]
    return model, moments, [note]


def _answers(setting: Setting) -> int:
    """How many answers a GPU draws side by side: TRL all of a generation batch, PPO at most `rollout_batch_size`."""
    train, processes = setting.train, setting.sharding.processes
    rows = int(train["per_device_train_batch_size"])
    rounds = int(train.get("steps_per_generation") or setting.accumulation)
    batch = train.get("generation_batch_size")
    answers = -(-int(batch) // processes) if batch else rows * rounds
    return min(answers, int(train.get("rollout_batch_size", answers)))


def _prompt(setting: Setting) -> tuple[int, str]:
    longest = setting.longest or setting.block("rows").get("max_prompt_length")
    if longest:
        return int(longest), f"prompts of {int(longest):,} tokens"
    return row_length(setting)


def _reward_models(setting: Setting, model: ModelInMemory) -> tuple[int, int]:
    """(weights, adapters) of the reward models: adapters on the policy's base where they can stand there."""
    weights = adapters = 0
    for name in setting.stage.kind.objectives:
        if name not in setting.stage.inputs:
            continue
        reward_model = finished_model(setting, setting.stage.inputs[name])
        shared = reward_model.adapter is not None and model.adapter is not None and not setting.train.get("use_vllm")
        weights += 0 if shared else reward_model.weights
        adapters += reward_model.adapters
    return weights, adapters


def _critic(model: ModelInMemory) -> dict[str, int]:
    """Beside the policy PPO trains a critic as large as it, an adapter or a model."""
    if model.adapter is None:
        return {"weights": model.weights, "adapters": 0, "times": 2}
    return {"weights": 0, "adapters": model.adapters, "times": 2}
