"""ms-swift's arguments: the flags of `swift sft`, `swift pt` and `swift rlhf` in a script, or a file of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ft.recipe.yaml import Block, Mark
from ft.tools.importing.config import TrainingConfig
from ft.tools.importing.data_sets import MIRRORS, format_of
from ft.tools.importing.draft import StageDraft, is_on, items_of, sequence

NAME = "ms-swift"

DIFFERENCES = {
    "dropped": "ms-swift drops rows longer than max_length and says no more than a count, or cuts them where "
    "truncation_strategy says so; here the oldest turns go, and what is still too long is dropped and counted.",
    "pairs_dropped": "ms-swift drops rows of preferences longer than max_length, or cuts them; here they are dropped "
    "and counted.",
    "orpo": "ms-swift's ORPO is TRL's, which counts the likelihood of the prompt too, and longer answers more; here "
    "that of the chosen answer's own tokens, each pair alike, as the paper has it.",
    "simpo": "ms-swift's SimPO is TRL's, which adds the likelihood of the chosen answers where `cpo_alpha: 0` does not "
    "switch it off; the paper has none.",
    "length": "max_length is the model's whole window there where none is written; ft needs one.",
    "hub": "ms-swift reads names from ModelScope unless --use_hf is given; ft reads the Hugging Face Hub, where known "
    "ones were renamed: check the others.",
    "template": "ms-swift writes rows by a template of its own of this name; here the model's own chat template is "
    "used.",
    "test_split": "ms-swift splits rows off at random; here whole conversations are held out by how they begin.",
    "reference": "ms-swift compares with the base unless --ref_adapters is given beside --adapters; here the "
    "reference is the policy as the stage began, and the stage proves it before its first step.",
    "identity": "ms-swift puts model_name and model_author in the rows of self-cognition; here {{NAME}} and "
    "{{AUTHOR}} stay in them: write the rows out before.",
    "documents": "ms-swift cuts documents at max_length; here a longer one is dropped and counted. Split such "
    "documents before.",
    "weights": "ms-swift holds weights of full training in torch_dtype; here what is trained is held in float32.",
}

TRAIN = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "logging_steps": 5,
    "gradient_checkpointing": True,
}
LORA = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
DEFAULT_LENGTH = 2048
TYPES = ("train_type", "tuner_type", "sft_type")
OWN_KEYS = {*TYPES, "rlhf_type", "split_dataset_ratio", "quant_bits", "torch_dtype"}


def matches(config: TrainingConfig) -> bool:
    """Its command, or keys that only it has beside `model` and `dataset`."""
    if config.command:
        return config.command[0] in ("swift", "megatron")
    return {"model", "dataset"} <= config.values.keys() and bool(OWN_KEYS & config.values.keys())


def read(draft: StageDraft) -> None:
    """Fill the draft."""
    if draft.config.command[:1] == ("megatron",):
        draft.refuse(
            "model", "this is Megatron-SWIFT", "ft trains with the Hugging Face Trainer: give `swift sft` flags."
        )
    word = draft.config.command[1] if len(draft.config.command) > 1 else "sft"
    method = draft.take("rlhf_type") or ("dpo" if word == "rlhf" else word)
    draft.choose_kind(method, "rlhf_type")
    draft.evaluation = "steps"
    _read_names(draft)
    _read_data(draft)
    _read_adapter(draft)
    _read_template(draft)
    _read_losses(draft)
    draft.take_prompt_length("max_length")
    draft.place_remaining()
    draft.defaults("train", {"max_completion_length": 512})
    if "max_length" not in draft.blocks.get("train", {}) and draft.kind.blocks["train"].has("max_length"):
        draft.put("train", "max_length", DEFAULT_LENGTH, "the model's window there")
        draft.differ("length")
    draft.defaults("train", {"learning_rate": 1e-4 if draft.trains_adapter else 1e-5, **TRAIN})
    draft.defaults("train", {"beta": 2.0 if draft.kind_name == "simpo" else 0.1, "simpo_gamma": 1.0, "cpo_alpha": 1.0})
    if draft.kind.reference and draft.trains_adapter:
        draft.differ("reference")
    preferences = dict.fromkeys(("pairs", "labelled answers"), "pairs_dropped")
    draft.differ({**preferences, "documents": "documents"}.get(draft.kind.rows, "dropped"))
    if draft.kind_name in DIFFERENCES:
        draft.differ(draft.kind_name)


def _read_names(draft: StageDraft) -> None:
    if is_on(draft.take("use_hf")):
        return
    model = draft.remaining.get("model")
    draft.differ("hub")
    if str(model) in MIRRORS:
        draft.remaining["model"] = MIRRORS[str(model)]


def _read_adapter(draft: StageDraft) -> None:
    method = draft.take(*TYPES) or "lora"
    if method not in ("lora", "full"):
        draft.refuse(next(key for key in TYPES if key in draft.config.values), f"it trains by {method}", _METHODS)
    draft.trains_adapter = method == "lora"
    bits, by = draft.take("quant_bits"), draft.take("quant_method")
    if by is not None or bits:
        mark = draft.mark_of("quant_bits" if bits else "quant_method")
        bits = bits or 4
        if by not in (None, "bnb") or bits not in (4, 8):
            draft.refuse("quant_method", f"it quantises to {bits} bits by {by}", "ft has bitsandbytes' 4 and 8 bits.")
        draft.put("quantization", f"load_in_{bits}bit", True, "from quant_bits", mark)
        if bits == 4:
            draft.defaults("quantization", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True})
    if draft.trains_adapter:
        targets, mark = draft.take("target_modules"), draft.mark_of("target_modules")
        names = [str(name) for name, _ in items_of(targets, mark)]
        everything = not names or names[0].lower() in ("all-linear", "default", "all", "auto")
        comment = "" if names else f"{NAME}'s default"
        draft.put("lora", "target_modules", "all-linear" if everything else sequence(names, mark), comment, mark)
        keys = {"r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
        draft.defaults("lora", {field: LORA[field] for field, key in keys.items() if key not in draft.remaining})
    elif draft.remaining.get("torch_dtype"):
        draft.differ("weights")
    dtype, mark = draft.take("torch_dtype"), draft.mark_of("torch_dtype")
    if dtype in ("bfloat16", "float16", "float32"):
        key, value = {"bfloat16": ("bf16", True), "float16": ("fp16", True), "float32": ("bf16", False)}[dtype]
        draft.put("train", key, value, "from torch_dtype", mark)


_METHODS = "ft trains whole models, LoRA and QLoRA."


def _read_template(draft: StageDraft) -> None:
    name = draft.take("template")
    if name in ("chatml", "llama3"):
        draft.template = (name, draft.mark_of("template"))
    elif name:
        draft.differ("template")
    scale, mark = draft.take("loss_scale"), draft.mark_of("loss_scale")
    train_on = {"all": "all", "last_round": "last", "default": "assistant"}.get(str(scale))
    if scale and draft.kind.rows == "conversations":
        if train_on is None:
            draft.remaining.put("loss_scale", scale, mark)
            draft.omit("loss_scale", "ft weighs every trained token alike; `rows: {train_on: …}` says which are.")
        else:
            draft.put("rows", "train_on", train_on, "from loss_scale", mark)


def _read_losses(draft: StageDraft) -> None:
    loss, mark = draft.take("loss_type"), draft.mark_of("loss_type")
    share = draft.take("rpo_alpha")
    losses = [str(name) for name, _ in items_of(loss, mark)]
    if share and draft.has("loss_weights"):
        mark = draft.mark_of("rpo_alpha")
        losses = losses or ["sigmoid"]
        draft.put("train", "loss_weights", sequence([1.0] * len(losses) + [share], mark), "from rpo_alpha", mark)
        losses.append("sft")
    if losses and draft.has("loss_type"):
        value = sequence(losses, mark) if draft.has("loss_weights") else losses[0]
        draft.put("train", "loss_type", value, mark=mark)
    kwargs, mark = draft.take("lr_scheduler_kwargs"), draft.mark_of("lr_scheduler_kwargs")
    if isinstance(kwargs, Block):
        draft.put("train", "lr_scheduler_kwargs", kwargs, mark=mark)


# Data

_SAMPLED = re.compile(r"^(?P<path>[^#:]+)(?::(?P<subset>[^#]+))?(?:#(?P<rows>\d+))?$")


def _read_data(draft: StageDraft) -> None:
    columns, streaming = draft.take("columns"), draft.take("streaming")
    for key, held_out in (("dataset", False), ("val_dataset", True)):
        for value, mark in items_of(draft.take(key), draft.mark_of(key)):
            _read_source(draft, str(value), mark, columns, is_on(streaming), held_out)
    if not draft.sources:
        draft.refuse("dataset", "no data set is named", "Write `--dataset …`.")
    for key in ("model_name", "model_author"):
        if draft.remaining.get(key):
            draft.differ("identity")
            draft.omit(key, "Rows are read as they are.")
    draft.hold_out(draft.take("split_dataset_ratio"), draft.mark_of("split_dataset_ratio"), "split_dataset_ratio")
    for key in ("custom_register_path", "custom_dataset_info", "external_plugins"):
        draft.omit(key, "No code of a config is run: say the format of the rows by `format` and `columns`.")


def _read_source(draft: StageDraft, value: str, mark: Mark, columns: Any, streaming: bool, held_out: bool) -> None:
    """`path`, `id:subset` or `id#rows`, with HF:: or MS:: before it."""
    prefix, _, name = value.rpartition("::")
    parts = _SAMPLED.match(name)
    if parts is None:
        draft.problems.add(str(mark), f"'{value}' names no data set", "Write ID, ID:SUBSET, ID#ROWS or a file.")
        return
    path = parts["path"] if prefix.upper() == "HF" else MIRRORS.get(parts["path"], parts["path"])
    values: dict[str, Any] = {"path": path, "name": parts["subset"] if parts["subset"] != "default" else None}
    values["format"] = format_of(path)  # else told by the columns of the rows, as ms-swift does
    values["rows"] = int(parts["rows"]) if parts["rows"] else None
    values["columns"] = _columns(columns)
    draft.source({**values, "streaming": streaming or None}, mark, held_out=held_out)


def _columns(value: Any) -> Mapping[str, str]:
    """`{theirs: ours}` as a mapping, turned round."""
    return {str(field): str(column) for column, field in value.items()} if isinstance(value, Block) else {}
