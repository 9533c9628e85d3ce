"""What stages that train have in memory, and when, and the estimate of any stage by its kind's own function.

Such a function, `Kind.memory`, takes a Setting and returns the moments with the model they are about, and
notes for people.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from ft.errors import UserError
from ft.fit.activations import Batch, ComputeMode, final_norm, head, layer_forward, trained_forward
from ft.fit.activations import forward_casts as casts_of_forward
from ft.fit.memory import Moment, StageFit, moment
from ft.fit.setting import Estimate, ModelInMemory, Setting, bytes_of, model_to_train
from ft.fit.training import ResidentMemory, compute_mode, resident_memory
from ft.fit.weights import paged, step_extra
from ft.recipe.kind import function_at


def sft(setting: Setting) -> Estimate:
    """Rows side by side, or with packing one row of all of them; evaluation has the packing of training."""
    train = setting.train
    length = int(train["max_length"])
    packs = bool(train.get("packing"))
    if setting.longest and not packs:
        length = min(length, setting.longest)
    if packs:
        return _training(setting, lambda rows: Batch(1, rows * length, True))
    return _training(setting, lambda rows: Batch(rows, length, rows > 1 and setting.padded))


def pairs(setting: Setting) -> Estimate:
    """Chosen and rejected side by side. A prompt they share is computed once, so the worst pair shares nothing."""
    length = min(int(setting.train["max_length"]), setting.longest or sys.maxsize)
    return _training(setting, lambda rows: Batch(2 * rows, length, setting.padded))


def _training(setting: Setting, batch: Callable[[int], Batch]) -> Estimate:
    model = model_to_train(setting)
    resident, mode = resident_memory(setting, model), compute_mode(setting, model)
    rows = int(setting.train["per_device_train_batch_size"])
    moments = [step(setting, model, resident, mode, batch(rows)), optimizer_step(setting, model, resident)]
    if evaluates(setting):
        rows = int(setting.train["per_device_eval_batch_size"])
        moments.append(evaluation(setting, model, resident, mode, batch(rows)))
    moments.append(_loading(model, resident))
    return model, moments, _notes(setting)


def evaluates(setting: Setting) -> bool:
    asked = setting.train["eval_strategy"] != "no" or setting.train.get("eval_on_start")
    return bool(asked or setting.stage.eval_data or setting.block("rows").get("eval_fraction"))


def step(setting: Setting, model: ModelInMemory, resident: ResidentMemory, mode: ComputeMode, batch: Batch) -> Moment:
    """The fullest moment of forward and backward: at the loss, or inside the first layer that goes back.

    Gradients of steps before are there when they are accumulated; without that they grow while activations leave, and
    the fuller end counts.
    """
    shape = model.shape
    stay, working = trained_forward(shape, batch, mode)
    scores = "reward_model" in setting.stage.kind.leaves
    loss = 0 if scores else head(shape, batch.tokens, mode, gradients=True)
    casts = 0 if setting.sharding.gathers else casts_of_forward(shape, mode)
    if setting.stage.kind.reference:
        working = max(working, layer_forward(shape, batch, mode))
    at_head = casts + final_norm(shape, batch, mode)
    acts, logits = (stay + at_head, loss) if at_head + loss > working else (stay + working, 0)
    states = 0 if paged(resident.optimizer) else resident.states
    resident_parts = {"weights": resident.weights, "adapters": resident.adapters, "optimiser": states}
    accumulates = setting.accumulation > 1 or setting.sharding.kind != "none"
    full = moment(
        "training step",
        **resident_parts,
        gradients=resident.gradients if accumulates else 0,
        activations=acts + resident.gathered,
        logits=logits,
    )
    end = moment(
        "training step", **resident_parts, gradients=resident.gradients, activations=working + resident.gathered
    )
    return max(full, end, key=lambda one: one.total)


def optimizer_step(setting: Setting, model: ModelInMemory, resident: ResidentMemory) -> Moment:
    extra = setting.sharding.slice(step_extra(resident.optimizer, resident.trained), "states")
    return moment(
        "optimizer step",
        weights=resident.weights,
        adapters=resident.adapters,
        gradients=resident.gradients,
        optimiser=resident.states + extra,
    )


def evaluation(
    setting: Setting, model: ModelInMemory, resident: ResidentMemory, mode: ComputeMode, batch: Batch
) -> Moment:
    """No gradients and none saved; the optimizer's states wait. Logits are made a tile at a time here too."""
    scores = "reward_model" in setting.stage.kind.leaves
    mask = batch.rows * batch.length**2 if batch.masked else 0
    return moment(
        "evaluation",
        weights=resident.weights,
        adapters=resident.adapters,
        optimiser=0 if paged(resident.optimizer) else resident.states,
        activations=layer_forward(model.shape, batch, mode) + mask + resident.gathered,
        logits=0 if scores else head(model.shape, batch.tokens, mode, gradients=False),
    )


def _loading(model: ModelInMemory, resident: ResidentMemory) -> Moment:
    """Weights, and the largest tensor once more as it is read; a matrix to quantise stands there in full."""
    shape, number = model.shape, bytes_of(model.dtype)
    largest = max(shape.embedding, max((linear.parameters for linear in shape.layer.linears), default=0))
    return moment("loading", weights=resident.weights, adapters=resident.adapters, activations=largest * number)


def _notes(setting: Setting) -> list[str]:
    notes = []
    if setting.compute == "bfloat16" and not setting.gpu.bfloat16:
        notes.append(f"{setting.gpu.name} has no bfloat16: write train: {{bf16: false, fp16: true}}")
    return notes


def in_main_memory(setting: Setting) -> Estimate:
    """Of a kind that uses no GPU: an untrained model, or rows made of rows."""
    return None, [], ["made in main memory"]


def not_estimated(setting: Setting) -> Estimate:
    """Of a kind whose model is not described by a config yet when it is planned."""
    return None, [], ["not estimated: its model is made by stages of this recipe"]


def stage_fit(setting: Setting) -> StageFit:
    """What the stage needs; a problem, told by itself, leaves the other stages their rows."""
    stage = setting.stage
    named = StageFit(stage.name, stage.kind_name)
    try:
        model, moments, notes = function_at(stage.kind.memory)(setting)
    except UserError as error:
        return replace(named, problem=str(error))
    if model is None:
        return replace(named, notes=tuple(notes), moments=tuple(moments))
    adapter = model.adapter
    trains = "train" in stage.blocks
    workspace = setting.gpu.workspace * (2 if trains else 1)  # autograd's thread has cuBLAS's handle of its own
    return replace(
        named,
        trained=(adapter.trained if adapter else model.shape.parameters) if trains else 0,
        parameters=model.shape.parameters + (adapter.trained if adapter else 0),
        moments=tuple(replace(one, workspace=workspace) for one in moments),
        shape=model.shape.origin,
        notes=tuple(notes),
    )
