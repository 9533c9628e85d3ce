"""What to change so that a stage fits: in order of least harm, each combination tried by recomputing the stage.

The global batch (rows per step) stays what it is. What costs time comes before what changes what is learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ft.fit.answering import answer_block
from ft.fit.gpus import GPUS
from ft.fit.kinds import stage_fit
from ft.fit.memory import StageFit
from ft.fit.setting import Setting
from ft.recipe import Stage

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
LORA = {"r": 64, "lora_alpha": 16, "target_modules": "all-linear"}
SHORTEST = 256  # tokens; below it hardly a conversation fits


@dataclass(frozen=True)
class Change:
    """Keys of one block to write: `train: {optim: paged_adamw_32bit}`, and what it costs, in words."""

    block: str
    keys: Mapping[str, Any]
    price: str

    def on(self, stage: Stage) -> Stage:
        return replace(stage, blocks={**stage.blocks, self.block: {**stage.blocks.get(self.block, {}), **self.keys}})

    def __str__(self) -> str:
        keys = ", ".join(f"{key}: {_yaml(value)}" for key, value in self.keys.items())
        return f"{self.block}: {{{keys}}}"


@dataclass(frozen=True)
class Advice:
    """`changes` together let the stage fit, with `fit` what it then needs. Without any, `instead` says what would."""

    changes: tuple[Change, ...]
    fit: StageFit | None
    instead: str = ""


def advice(setting: Setting) -> Advice:
    """Changes that make the stage fit, none of which could be left out; else the GPU that would do."""
    changes: list[Change] = []
    now, needs = setting, stage_fit(setting)
    for propose in CHANGES:
        while not needs.problem and not needs.fits(setting.gpu) and (change := propose(now)):
            tried = replace(now, stage=change.on(now.stage))
            fit = stage_fit(tried)
            if fit.problem:
                break
            helps = fit.peak.total < needs.peak.total
            if not helps and propose not in REPEATED:
                break
            changes, now, needs = [*_without_same(changes, change), change], tried, fit
            if propose not in REPEATED:
                break
    if needs.problem or not needs.fits(setting.gpu):
        return Advice((), None, _larger(setting, needs))
    for change in list(changes):
        fewer = [one for one in changes if one is not change]
        fit = stage_fit(_changed(setting, fewer))
        if not fit.problem and fit.fits(setting.gpu):
            changes, needs = fewer, fit
    return Advice(tuple(changes), needs)


def _changed(setting: Setting, changes: list[Change]) -> Setting:
    stage = setting.stage
    for change in changes:
        stage = change.on(stage)
    return replace(setting, stage=stage)


def _without_same(changes: list[Change], change: Change) -> list[Change]:
    """A smaller batch takes the place of the one tried before it."""
    return [one for one in changes if (one.block, set(one.keys)) != (change.block, set(change.keys))]


def _checkpointing(setting: Setting) -> Change | None:
    if "train" not in setting.stage.blocks or setting.train["gradient_checkpointing"]:
        return None
    return Change("train", {"gradient_checkpointing": True}, "a quarter to a third more time")


def _batch(setting: Setting) -> Change | None:
    """Half as many rows side by side, twice as many times: the same global batch."""
    rows = int(setting.train.get("per_device_train_batch_size", 0))
    if rows < 2 * _least_rows(setting) or rows % 2:
        return None
    keys = {"per_device_train_batch_size": rows // 2}
    if not setting.stage.global_batch:
        keys |= {"gradient_accumulation_steps": setting.accumulation * 2}
    reads_fewer = ", and the loss reads fewer rows as one" if setting.stage.kind.loss_over_batch else ""
    return Change("train", keys, f"the same global batch size{reads_fewer}, some time")


def _least_rows(setting: Setting) -> int:
    """Rows that a batch must have."""
    return 2 if setting.stage.kind.loss_over_batch else 1


def _eval_batch(setting: Setting) -> Change | None:
    rows = int(setting.train.get("per_device_eval_batch_size", 0))
    if rows < 2 * _least_rows(setting):
        return None
    return Change("train", {"per_device_eval_batch_size": rows // 2}, "evaluation takes longer")


def _rollouts(setting: Setting) -> Change | None:
    rows = int(setting.train.get("rollout_batch_size", 0))
    if rows < 2:
        return None
    return Change("train", {"rollout_batch_size": rows // 2}, "answers take longer")


def _answers(setting: Setting) -> Change | None:
    block = answer_block(setting)
    rows = int(setting.block(block).get("batch_size", 0))
    return Change(block, {"batch_size": rows // 2}, "answers take longer") if rows > 1 else None


def _reference(setting: Setting) -> Change | None:
    if "lora" in setting.stage.blocks or setting.train.get("precompute_ref_log_probs", True):
        return None
    return Change("train", {"precompute_ref_log_probs": True}, "one pass over the rows before the first step")


def _paged(setting: Setting) -> Change | None:
    return _optimizer(setting, "paged_adamw_32bit", "states wait in main memory; the steps are the same")


def _eight_bit(setting: Setting) -> Change | None:
    return _optimizer(setting, "paged_adamw_8bit", "states are rounded to 8 bits")


def _optimizer(setting: Setting, name: str, price: str) -> Change | None:
    now = str(setting.train.get("optim"))
    if "adamw" not in now or now == name or now == "paged_adamw_8bit":
        return None
    return Change("train", {"optim": name}, price)


def _lora(setting: Setting) -> Change | None:
    """An adapter instead of the whole model, where no parent's adapter or weights decide the matter."""
    if "train" not in setting.stage.blocks or "lora" in setting.stage.blocks or setting.stage.init:
        return None
    return Change("lora", LORA, "an adapter is trained, not the whole model")


def _four_bit(setting: Setting) -> Change | None:
    blocks = setting.stage.blocks
    trains_whole = "train" in blocks and "lora" not in blocks
    if "quantization" in blocks or trains_whole or "quantization" not in setting.stage.kind.blocks:
        return None
    quantization = NF4 if setting.gpu.bfloat16 else {**NF4, "bnb_4bit_compute_dtype": "float16"}
    return Change("quantization", quantization, "the base is rounded to 4 bits; stages of one adapter need the same")


def _shorter(setting: Setting) -> Change | None:
    length = int(setting.train.get("max_length", 0))
    if length < 2 * SHORTEST:
        return None
    return Change("train", {"max_length": length // 2}, "longer rows lose their oldest turns, or are refused")


def _shorter_answers(setting: Setting) -> Change | None:
    for block, key in (("train", "max_completion_length"), (answer_block(setting), "max_new_tokens")):
        length = int(setting.block(block).get(key, 0))
        if length >= 64:
            return Change(block, {key: length // 2}, "longer answers are cut")
    return None


CHANGES: tuple[Callable[[Setting], Change | None], ...] = (
    _eval_batch,
    _answers,
    _checkpointing,
    _batch,
    _rollouts,
    _reference,
    _paged,
    _eight_bit,
    _lora,
    _four_bit,
    _shorter,
    _shorter_answers,
)
REPEATED = (_eval_batch, _answers, _batch, _rollouts, _shorter, _shorter_answers)


def _larger(setting: Setting, least: StageFit) -> str:
    """What would do as it is written: the smallest GPU ft knows; and the least that changes brought it to."""
    need = stage_fit(setting).peak.total
    larger = [one for one in sorted(GPUS.values(), key=lambda one: one.gib) if one.capacity >= need]
    words = [f"a {larger[0].name} ({larger[0].gib:g} GiB) would do as it is written" if larger else ""]
    if setting.sharding.kind in ("none", "ddp") and "train" in setting.stage.blocks:
        words.append("or slices over several GPUs: --launch recipes/accelerate/fsdp.yaml --gpus N")
    if not least.problem:
        words.append(f"no change brings it below {least.peak.total / 2**30:.1f} GiB")
    return "; ".join(word for word in words if word)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
