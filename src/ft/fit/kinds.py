"""What stages that train have in memory, and when, and the estimate of any stage by its kind's own function.

Such a function, `Kind.memory`, takes a Setting and returns the moments with the standing model they are about, and
notes for people.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from ft.errors import UserError, fail
from ft.fit.activations import Batch, Regime, final_norm, head, layer_forward, trained_forward
from ft.fit.activations import forward_casts as casts_of_forward
from ft.fit.memory import Moment, StageFit, moment
from ft.fit.standing import Setting, Standing, bytes_of, trained
from ft.fit.training import Kept, kept, regime_of
from ft.fit.weights import paged, step_extra
from ft.recipe.kind import function_at

Found = tuple[Standing | None, list[Moment], list[str]]


def sft(setting: Setting) -> Found:
    """Rows side by side, or with packing one row of all of them; evaluation has the packing of training."""
    train = setting.train
    length = int(train["max_length"])
    packs = bool(train.get("packing"))
    if setting.longest and not packs:
        length = min(length, setting.longest)
    if packs:
        return _training(setting, lambda rows: Batch(1, rows * length, True))
    return _training(setting, lambda rows: Batch(rows, length, rows > 1 and setting.padded))


def pairs(setting: Setting) -> Found:
    """Chosen and rejected side by side. A prompt they share is computed once, so the worst pair shares nothing."""
    length = min(int(setting.train["max_length"]), setting.longest or sys.maxsize)
    return _training(setting, lambda rows: Batch(2 * rows, length, setting.padded))


def _training(setting: Setting, batch: Callable[[int], Batch]) -> Found:
    standing = trained(setting)
    stands, regime = kept(setting, standing), regime_of(setting, standing)
    rows = int(setting.train["per_device_train_batch_size"])
    moments = [step(setting, standing, stands, regime, batch(rows)), optimizer_step(setting, standing, stands)]
    if evaluates(setting):
        rows = int(setting.train["per_device_eval_batch_size"])
        moments.append(evaluation(setting, standing, stands, regime, batch(rows)))
    moments.append(_loading(standing, stands))
    return standing, moments, _notes(setting)


def evaluates(setting: Setting) -> bool:
    asked = setting.train["eval_strategy"] != "no" or setting.train.get("eval_on_start")
    return bool(asked or setting.stage.eval_data or setting.block("rows").get("eval_fraction"))


def step(setting: Setting, standing: Standing, stands: Kept, regime: Regime, batch: Batch) -> Moment:
    """The fullest moment of forward and backward: at the loss, or inside the first layer that goes back.

    Gradients of steps before are there when they are accumulated; without that they grow while activations leave, and
    the fuller end counts.
    """
    shape = standing.shape
    stay, working = trained_forward(shape, batch, regime)
    scores = "reward_model" in setting.stage.kind.leaves
    loss = 0 if scores else head(shape, batch.tokens, regime, gradients=True)
    casts = 0 if setting.sharding.gathers else casts_of_forward(shape, regime)
    if setting.stage.kind.reference:
        working = max(working, layer_forward(shape, batch, regime))
    at_head = casts + final_norm(shape, batch, regime)
    acts, logits = (stay + at_head, loss) if at_head + loss > working else (stay + working, 0)
    states = 0 if paged(stands.optimizer) else stands.states
    standing_parts = {"weights": stands.weights, "adapters": stands.adapters, "optimiser": states}
    accumulates = setting.accumulation > 1 or setting.sharding.kind != "none"
    full = moment(
        "training step",
        **standing_parts,
        gradients=stands.gradients if accumulates else 0,
        activations=acts + stands.gathered,
        logits=logits,
    )
    end = moment("training step", **standing_parts, gradients=stands.gradients, activations=working + stands.gathered)
    return max(full, end, key=lambda one: one.total)


def optimizer_step(setting: Setting, standing: Standing, stands: Kept) -> Moment:
    extra = setting.sharding.slice(step_extra(stands.optimizer, stands.trained), "states")
    return moment(
        "optimizer step",
        weights=stands.weights,
        adapters=stands.adapters,
        gradients=stands.gradients,
        optimiser=stands.states + extra,
    )


def evaluation(setting: Setting, standing: Standing, stands: Kept, regime: Regime, batch: Batch) -> Moment:
    """No gradients and none saved; the optimizer's states wait. Logits are made a tile at a time here too."""
    scores = "reward_model" in setting.stage.kind.leaves
    mask = batch.rows * batch.length**2 if batch.masked else 0
    return moment(
        "evaluation",
        weights=stands.weights,
        adapters=stands.adapters,
        optimiser=0 if paged(stands.optimizer) else stands.states,
        activations=layer_forward(standing.shape, batch, regime) + mask + stands.gathered,
        logits=0 if scores else head(standing.shape, batch.tokens, regime, gradients=False),
    )


def _loading(standing: Standing, stands: Kept) -> Moment:
    """Weights, and the largest tensor once more as it is read; a matrix to quantise stands there in full."""
    shape, number = standing.shape, bytes_of(standing.dtype)
    largest = max(shape.embedding, max((linear.parameters for linear in shape.layer.linears), default=0))
    return moment("loading", weights=stands.weights, adapters=stands.adapters, activations=largest * number)


def _notes(setting: Setting) -> list[str]:
    notes = []
    if setting.compute == "bfloat16" and not setting.gpu.bfloat16:
        notes.append(f"{setting.gpu.name} has no bfloat16: write train: {{bf16: false, fp16: true}}")
    return notes


def scratch(setting: Setting) -> Found:
    """An untrained model is made in main memory."""
    return None, [], ["made in main memory"]


def not_estimated(setting: Setting) -> Found:
    stage = setting.stage
    raise fail(stage.where, f"no estimate for stages of kind '{stage.kind_name}' yet")


def stage_fit(setting: Setting) -> StageFit:
    """What the stage needs; a problem, told by itself, leaves the other stages their rows."""
    stage = setting.stage
    named = StageFit(stage.name, stage.kind_name)
    try:
        standing, moments, notes = function_at(stage.kind.memory)(setting)
    except UserError as error:
        return replace(named, problem=str(error))
    if standing is None:
        return replace(named, notes=tuple(notes), moments=tuple(moments))
    adapter = standing.adapter
    trains = "train" in stage.blocks
    workspace = setting.gpu.workspace * (2 if trains else 1)  # autograd's thread has cuBLAS's handle of its own
    return replace(
        named,
        trained=(adapter.trained if adapter else standing.shape.parameters) if trains else 0,
        parameters=standing.shape.parameters + (adapter.trained if adapter else 0),
        moments=tuple(replace(one, workspace=workspace) for one in moments),
        shape=standing.shape.said,
        notes=tuple(notes),
    )
