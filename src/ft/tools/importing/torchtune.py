"""Configs of torchtune: components by their Python paths, each with its arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ft.recipe.yaml import Block, Items
from ft.tools.importing.config import TrainingConfig
from ft.tools.importing.draft import StageDraft, is_on, sequence

NAME = "torchtune"

DIFFERENCES = {
    "cut": "torchtune cuts rows at the tokenizer's max_seq_len without a word, or at nothing where it is null; here "
    "the oldest turns are dropped, and what is still too long is dropped and counted.",
    "length": "The config has no max_seq_len, so rows have any length there; ft needs one: `max_length`.",
    "questions": "This data set trains on the questions too where nothing else is said, and so does `train_on: all`; "
    "`assistant` trains on answers alone.",
    "prompts": "torchtune writes these rows with a prompt of its own (Below is an instruction …); here every row is a "
    "conversation, written by the chat template.",
    "template": "torchtune writes conversations by a prompt template in code, or by its tokenizer's; here the model's "
    "own chat template is used.",
    "weights": "torchtune trains weights held in the config's dtype; here what is trained is held in float32 and "
    "computed in bfloat16.",
    "qlora": "torchtune's NF4 is torchao's; here it is bitsandbytes', of the same numbers with double quantisation.",
    "epochs": "max_steps_per_epoch ends an epoch early there; here max_steps ends the run.",
    "targets": "torchtune names modules its own way; output_proj is o_proj, and the MLP's w1, w2, w3 are gate_proj, "
    "down_proj, up_proj.",
    "reference": "torchtune's reference is the model with its adapter off, or a second copy; here it is the policy as "
    "the stage began, and the stage proves it before its first step.",
}

PREFERENCE_LOSSES = {"DPOLoss": "sigmoid", "RSOLoss": "hinge", "IPOLoss": "ipo"}
METHODS_OF_LOSSES = {"PPOLoss": "ppo", "GRPOLoss": "grpo", "GRPOSimpleLoss": "grpo", "SimPOLoss": "simpo"}
SCHEDULERS = {
    "get_cosine_schedule_with_warmup": "cosine",
    "get_linear_schedule_with_warmup": "linear",
    "get_constant_schedule_with_warmup": "constant_with_warmup",
}
OPTIMIZERS = {
    "torch.optim.AdamW": "adamw_torch",
    "torch.optim.Adam": "adamw_torch",
    "torch.optim.SGD": "sgd",
    "bitsandbytes.optim.PagedAdamW": "paged_adamw_32bit",
    "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit",
    "bitsandbytes.optim.AdamW8bit": "adamw_bnb_8bit",
    "torchao.optim.AdamW8bit": "adamw_bnb_8bit",
    "torchao.prototype.low_bit_optim.AdamW8bit": "adamw_bnb_8bit",
}
MODULES = {"output_proj": "o_proj", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
MLP = ("gate_proj", "up_proj", "down_proj")
DEFAULT_LENGTH = 2048
OWNERS = (
    ("Meta-Llama", "meta-llama"),
    ("Llama", "meta-llama"),
    ("CodeLlama", "codellama"),
    ("Mistral", "mistralai"),
    ("Qwen", "Qwen"),
    ("gemma", "google"),
    ("Phi", "microsoft"),
    ("phi", "microsoft"),
)


def matches(config: TrainingConfig) -> bool:
    """Components are named as nowhere else."""
    return any(isinstance(value, Block) and "_component_" in value for value in config.values.values())


def read(draft: StageDraft) -> None:
    """Fill the draft."""
    _resolve(draft.remaining, draft.remaining)
    loss = _component(draft.remaining.get("loss"))
    method = METHODS_OF_LOSSES.get(loss, "dpo" if loss in PREFERENCE_LOSSES else "sft")
    draft.choose_kind(method, "loss")
    if loss in PREFERENCE_LOSSES:
        mark = draft.mark_of("loss")
        draft.put("train", "loss_type", sequence([PREFERENCE_LOSSES[loss]], mark), f"from {loss}", mark)
        _read_loss(draft, {"beta": 0.1})
        draft.differ("reference")
    elif method == "simpo":
        _read_loss(draft, {"beta": 2.0, "simpo_gamma": 0.5})
    draft.take("loss")
    _read_model(draft)
    _read_tokenizer(draft)
    _read_data(draft)
    _read_optimizer(draft)
    _read_precision(draft)
    steps, epochs = draft.take("max_steps_per_epoch"), draft.remaining.get("epochs", 1)
    if isinstance(steps, int):
        draft.put("train", "max_steps", steps * int(epochs), "from max_steps_per_epoch", draft.mark_of("epochs"))
        draft.differ("epochs")
    size, mark = draft.take("batch_size"), draft.mark_of("batch_size")
    if size is not None:
        draft.put("train", "per_device_train_batch_size", size, "from batch_size", mark)
    if draft.remaining.get("seed", 0) is None:
        draft.take("seed")
    draft.take("resume_from_checkpoint")
    for key in INNER:
        draft.omit(key, "ft has no such part, or decides it itself.")
    draft.place_remaining()


INNER = ("metric_logger", "profiler", "output_dir", "save_every_n_steps", "run_val_every_n_steps", "model_type")


def _component(value: Any) -> str:
    """The last word of a component's path."""
    return str(value.get("_component_", "")).rpartition(".")[2] if isinstance(value, Block) else ""


def _read_loss(draft: StageDraft, defaults: Mapping[str, Any]) -> None:
    """The numbers of a loss of preferences."""
    loss = draft.remaining["loss"]
    for key, name in (("beta", "beta"), ("label_smoothing", "label_smoothing"), ("gamma", "simpo_gamma")):
        if key in loss:
            draft.put("train", name, loss[key], mark=loss.marks[key])
    draft.defaults("train", defaults)


def _resolve(value: Any, root: Block) -> None:
    """Write `${key.inner}` out, as OmegaConf does."""
    if isinstance(value, Block):
        for key, inner in value.items():
            if isinstance(inner, str):
                value[key] = re.sub(r"\$\{([\w.]+)\}", lambda match: str(_at(root, match[1])), inner)
            else:
                _resolve(inner, root)


def _at(root: Any, path: str) -> Any:
    for key in path.split("."):
        root = root.get(key, "") if isinstance(root, Block) else ""
    return root


# Model


def _read_model(draft: StageDraft) -> None:
    component, checkpoint = draft.take("model"), draft.take("checkpointer")
    for key in ("base_model_path", "ref_checkpointer", "teacher_model"):
        draft.omit(key, "The reference is the policy as the stage began.")
    name = _component(component)
    if isinstance(component, Block) and name:
        _read_adapter(draft, component, name)
    folder = checkpoint.get("checkpoint_dir") if isinstance(checkpoint, Block) else None
    if not isinstance(folder, str):
        draft.refuse("checkpointer", "no checkpoint_dir says where the weights are", "Write `checkpoint_dir: …`.")
        return
    mark = checkpoint.marks["checkpoint_dir"]
    draft.model.put("path", _model_path(draft, folder), mark)
    draft.comments["model", "path"] = f"downloaded to {folder} there"


def _model_path(draft: StageDraft, folder: str) -> str:
    """The folder if a model stands there, else the Hub id that was downloaded to it, by a comment or its name."""
    mark = draft.mark_of("checkpointer")
    path = draft.path(folder, mark)
    if path != folder:
        return path
    if downloaded := re.search(r"tune download\s+(\S+/\S+)", draft.config.text):
        return downloaded[1]
    name = folder.rstrip("/").rpartition("/")[2]
    owner = next((owner for start, owner in OWNERS if name.startswith(start)), None)
    return f"{owner}/{name.replace('Qwen2_5', 'Qwen2.5')}" if owner else folder


def _read_adapter(draft: StageDraft, component: Block, name: str) -> None:
    draft.trains_adapter = name.startswith(("lora_", "qlora_", "dora_", "qdora_"))
    if name.startswith(("qlora_", "qdora_")):
        draft.put("quantization", "load_in_4bit", True, f"from {name}", component.mark)
        draft.put("quantization", "bnb_4bit_quant_type", "nf4")
        draft.put("quantization", "bnb_4bit_use_double_quant", True)
        draft.differ("qlora")
    if not draft.trains_adapter:
        draft.unread(component, ("_component_",), "model")
        return
    modules = component.get("lora_attn_modules") or ["q_proj", "v_proj"]
    targets = [MODULES.get(str(module), str(module)) for module in modules]
    targets += MLP if is_on(component.get("apply_lora_to_mlp")) else ()
    targets += ("lm_head",) if is_on(component.get("apply_lora_to_output")) else ()
    draft.put("lora", "r", component.get("lora_rank", 8), mark=component.marks.get("lora_rank"))
    draft.put("lora", "lora_alpha", component.get("lora_alpha", 16), mark=component.marks.get("lora_alpha"))
    draft.put("lora", "lora_dropout", component.get("lora_dropout", 0.0), mark=component.marks.get("lora_dropout"))
    draft.put("lora", "target_modules", sequence(targets, component.mark), mark=component.mark)
    if name.startswith(("dora_", "qdora_")) or is_on(component.get("use_dora")):
        draft.put("lora", "use_dora", True, mark=component.mark)
    draft.differ("targets")
    read_keys = ("_component_", "lora_attn_modules", "apply_lora_to_mlp", "apply_lora_to_output", "lora_rank")
    draft.unread(component, (*read_keys, "lora_alpha", "lora_dropout", "use_dora", "quantize_base"), "model")


def _read_tokenizer(draft: StageDraft) -> None:
    tokenizer = draft.take("tokenizer")
    length = tokenizer.get("max_seq_len") if isinstance(tokenizer, Block) else None
    if length is None:
        draft.put("train", "max_length", DEFAULT_LENGTH, "none there: any length")
        draft.differ("length")
    else:
        draft.put("train", "max_length", length, "from max_seq_len", tokenizer.marks["max_seq_len"])
        draft.differ("cut")
    if isinstance(tokenizer, Block):
        if tokenizer.get("prompt_template"):
            draft.differ("template")
        inner = ("_component_", "path", "merges_file", "max_seq_len", "prompt_template", "special_tokens_path")
        draft.unread(tokenizer, inner, "tokenizer")


# Training


def _read_optimizer(draft: StageDraft) -> None:
    optimizer, scheduler = draft.take("optimizer"), draft.take("lr_scheduler")
    if isinstance(optimizer, Block):
        path = str(optimizer.get("_component_", ""))
        name = OPTIMIZERS.get(path)
        if name is None:
            draft.problems.add(optimizer.where(), f"no optimizer '{path}'", f"Known are: {', '.join(OPTIMIZERS)}.")
        fused = name == "adamw_torch" and is_on(optimizer.get("fused"))
        draft.put("train", "optim", "adamw_torch_fused" if fused else name, f"from {path}", optimizer.mark)
        _hand_over(draft, optimizer, ("_component_", "fused"))
        betas = draft.remaining.pop("betas", None)
        for key, value in zip(("adam_beta1", "adam_beta2"), betas or (), strict=False):
            draft.put("train", key, value, mark=optimizer.marks["betas"])
        if path.endswith("AdamW") and "weight_decay" not in optimizer:
            draft.defaults("train", {"weight_decay": 0.01})
    name = _component(scheduler)
    if isinstance(scheduler, Block):
        if name not in SCHEDULERS:
            draft.problems.add(scheduler.where(), f"no schedule '{name}'", f"Known are: {', '.join(SCHEDULERS)}.")
        draft.put("train", "lr_scheduler_type", SCHEDULERS.get(name, name), mark=scheduler.mark)
        _hand_over(draft, scheduler, ("_component_",))
    else:
        draft.defaults("train", {"lr_scheduler_type": "constant"})


def _hand_over(draft: StageDraft, component: Block, read_keys: tuple[str, ...]) -> None:
    """Let the keys of a component be placed like those at the top."""
    for key, value in component.items():
        if key not in read_keys:
            draft.remaining.put(key, value, component.marks[key])
            draft.config.values.marks.setdefault(key, component.marks[key])


def _read_precision(draft: StageDraft) -> None:
    dtype, mark = draft.take("dtype"), draft.mark_of("dtype")
    if dtype == "bf16":
        draft.put("train", "bf16", True, "from dtype: bf16", mark)
        draft.differ("weights")
    elif dtype == "fp16":
        draft.put("train", "fp16", True, "from dtype: fp16", mark)
    elif dtype in ("fp32", "float32"):
        draft.put("train", "bf16", False, "from dtype: fp32", mark)
    for key in ("enable_activation_checkpointing", "enable_activation_offloading"):
        if not is_on(draft.remaining.get(key)) and key in draft.remaining:
            draft.remaining[key] = False


# Data

Columns = Mapping[str, str]


def _no_columns(entry: Block) -> Columns:
    return {}


def _column_map(*names: str) -> Callable[[Block], Columns]:
    """Our names of a data set's columns, of those its `column_map` gives."""

    def columns(entry: Block) -> Columns:
        mapping = entry.get("column_map")
        keys = mapping if isinstance(mapping, Block) else {}
        names_of_ft = {"input": "prompt", "output": "completion"} if "prompt" in names else {}
        return {
            names_of_ft.get(key, key): column
            for key, column in keys.items()
            if names_of_ft.get(key, key) in names and names_of_ft.get(key, key) != column
        }

    return columns


def _chat_columns(entry: Block) -> Columns:
    column = entry.get("conversation_column")
    names_of_ft = "conversations" if entry.get("conversation_style") == "sharegpt" else "messages"
    return {names_of_ft: column} if column and column not in ("messages", "conversations") else {}


DATA_SETS: Mapping[str, tuple[str | None, str, Callable[[Block], Columns], bool]] = {
    "alpaca_dataset": ("tatsu-lab/alpaca", "alpaca", _column_map("instruction", "input", "output"), True),
    "alpaca_cleaned_dataset": ("yahma/alpaca-cleaned", "alpaca", _column_map("instruction", "input", "output"), True),
    "slimorca_dataset": ("Open-Orca/SlimOrca-Dedup", "sharegpt", _no_columns, False),
    "samsum_dataset": (
        "Samsung/samsum",
        "prompt_completion",
        lambda entry: {"prompt": "dialogue", "completion": "summary"},
        False,
    ),
    "grammar_dataset": (
        "liweili/c4_200m",
        "prompt_completion",
        lambda entry: {"prompt": "input", "completion": "output"},
        False,
    ),
    "instruct_dataset": (None, "prompt_completion", _column_map("prompt", "completion"), False),
    "chat_dataset": (None, "messages", _chat_columns, False),
    "preference_dataset": (None, "preference", _column_map("prompt", "chosen", "rejected"), False),
    "stack_exchange_paired_dataset": ("lvwerra/stack-exchange-paired", "stack_exchange", _no_columns, False),
    "hh_rlhf_helpful_dataset": ("RLHFlow/HH-RLHF-Helpful-standard", "preference", _no_columns, False),
    "text_completion_dataset": (
        None,
        "text",
        lambda entry: {"text": entry["column"]} if entry.get("column", "text") != "text" else {},
        True,
    ),
    "wikitext_dataset": ("EleutherAI/wikitext_document_level", "text", lambda entry: {"text": "page"}, True),
}
"""Builder → (its data set, format, columns, whether it trains on the questions where nothing is said)."""

OF_A_BUILDER = (
    *("_component_", "source", "packed", "train_on_input", "conversation_style", "conversation_column", "column_map"),
    *("data_files", "split", "name", "column", "subset", "new_system_prompt", "max_seq_len", "masking_strategy"),
)
WITH_PROMPTS = ("alpaca_dataset", "alpaca_cleaned_dataset", "grammar_dataset", "samsum_dataset")


def _read_data(draft: StageDraft) -> None:
    for key, held_out in (("dataset", False), ("dataset_val", True)):
        value = draft.take(key)
        entries = [*value] if isinstance(value, Items) else [value] if value is not None else []
        for entry in entries:
            if isinstance(entry, Block):
                _read_builder(draft, entry, held_out)
        if not entries and not held_out:
            draft.refuse(key, "no data set is named", "Write `dataset: {_component_: …}`.")
    for key in ("batch_size_val", "collate_fn", "max_validation_batches"):
        draft.omit(key, "ft batches by `train:`.")


def _read_builder(draft: StageDraft, entry: Block, held_out: bool) -> None:
    name = _component(entry)
    builder = DATA_SETS.get(name)
    if builder is None:
        where, fix = entry.where("_component_"), f"Known are: {', '.join(DATA_SETS)}."
        draft.problems.add(where, f"no data set '{name}'", fix)
        return
    path, row_format, columns, on_questions = builder
    source = entry.get("source", path)
    if source in ("json", "csv", "text", "parquet"):
        source = entry.get("data_files")
    if not isinstance(source, str):
        draft.problems.add(entry.where(), f"{name} names no source", "Write `source: …`.")
        return
    if name == "chat_dataset" and entry.get("conversation_style") == "sharegpt":
        row_format = "sharegpt"
    if name in WITH_PROMPTS:
        draft.differ("prompts")
    if draft.kind.rows == "conversations" and row_format != "text":
        trains_all = is_on(entry["train_on_input"]) if "train_on_input" in entry else on_questions
        draft.put("rows", "train_on", "all" if trains_all else "assistant", "from train_on_input")
        if trains_all:
            draft.differ("questions")
    if entry.get("new_system_prompt"):
        draft.unread(entry, tuple(key for key in entry if key != "new_system_prompt"), "dataset")
    if is_on(entry.get("packed")) and draft.kind.rows == "conversations":
        draft.put("train", "packing", True, mark=entry.marks["packed"])
    values = {"path": source, "name": entry.get("name") or entry.get("subset"), "format": row_format}
    draft.unread(entry, OF_A_BUILDER, "dataset")
    draft.source({**values, "split": entry.get("split"), "columns": columns(entry)}, entry.mark, held_out=held_out)
