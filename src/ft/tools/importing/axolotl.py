"""Configs of axolotl: flat keys, and a list of data sets whose `type` says how their rows are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.recipe.yaml import Block, Items
from ft.tools.importing.config import TrainingConfig
from ft.tools.importing.data_sets import format_of
from ft.tools.importing.draft import StageDraft

NAME = "axolotl"

DIFFERENCES = {
    "dropped": "axolotl drops rows longer than sequence_len without a word; here the oldest turns go, and what "
    "is still too long is dropped and counted.",
    "pairs_dropped": "axolotl drops or cuts rows of preferences longer than sequence_len without a word; here they are "
    "dropped and counted.",
    "orpo": "axolotl's ORPO is TRL's, which counts the likelihood of the prompt too, and longer answers more; here "
    "that of the chosen answer's own tokens, each pair alike, as the paper has it.",
    "simpo": "axolotl's SimPO is TRL's, which adds the likelihood of the chosen answers where `cpo_alpha: 0` does not "
    "switch it off; the paper has none.",
    "prompts": "axolotl writes rows of the type alpaca with a prompt of its own (### Instruction:); here every row is "
    "a conversation, written by the chat template.",
    "format": "axolotl writes these rows by the `format` of the config; here they are conversations, written by the "
    "chat template: give a template that writes the same, or rows of the format text.",
    "template": "axolotl has a template of this name; here the model's own chat template is used. Write "
    "`chat_template:` at the top where the model has none.",
    "tokens": "axolotl changes the tokenizer's special tokens, and often pads with the end-of-sequence token; here "
    "labels go by position, so that the pad token hides nothing, and the tokens are the model's own.",
    "test_split": "axolotl splits rows off at random; here whole conversations are held out by how they begin.",
    "saves": "axolotl counts saves and evaluations by epoch; a share of all steps says the same.",
    "documents": "axolotl packs plain text end to end and cuts it at sequence_len; here a document longer than that "
    "is dropped and counted. Split such documents before.",
    "gradients": "axolotl offloads activations or uses other kernels for gradient checkpointing; here it is plain.",
    "optimizer": "axolotl's optimizers beyond transformers' are not there; the nearest is written.",
}

TEMPLATES = {"chatml": "chatml", "llama3": "llama3"}
BETA = {"beta": 0.1}
MESSAGES = {"role": "role", "content": "content"}


def matches(config: TrainingConfig) -> bool:
    """`base_model` is the one key that axolotl demands and no other trainer knows."""
    return "base_model" in config.values


def read(draft: StageDraft) -> None:
    """Fill the draft."""
    rl = draft.take("rl")
    preference = "reward_model" if draft.take("reward_model") else rl
    documents = draft.remaining.get("pretraining_dataset") is not None or _all_completion(draft)
    draft.choose_kind(preference or ("pt" if documents else "sft"), "rl" if rl else "base_model")
    if rl == "orpo" and (share := draft.take("orpo_alpha")) is not None:
        draft.put("train", "beta", share, "from orpo_alpha", draft.mark_of("orpo_alpha"))
    _read_template(draft)
    _read_data(draft)
    _read_adapter(draft)
    _read_steps(draft)
    draft.place_remaining()
    draft.defaults("train", {"max_length": 512, "per_device_train_batch_size": 1, "lr_scheduler_type": "cosine"})
    draft.defaults("train", {**BETA, "simpo_gamma": 0.5, "cpo_alpha": 1.0})
    preferences = dict.fromkeys(("pairs", "labelled answers"), "pairs_dropped")
    draft.differ({**preferences, "documents": "documents"}.get(draft.kind.rows, "dropped"))
    if draft.kind_name in DIFFERENCES:
        draft.differ(draft.kind_name)


def _all_completion(draft: StageDraft) -> bool:
    entries = draft.remaining.get("datasets")
    types = [entry.get("type") for entry in entries if isinstance(entry, Block)] if isinstance(entries, Items) else []
    return bool(types) and all(str(name).startswith("completion") for name in types)


def _read_template(draft: StageDraft) -> None:
    name, mark = draft.take("chat_template"), draft.mark_of("chat_template")
    if jinja := draft.take("chat_template_jinja"):
        draft.template = (str(jinja), draft.mark_of("chat_template_jinja"))
    elif name in TEMPLATES:
        draft.template = (TEMPLATES[name], mark)
    elif name and not str(name).startswith("tokenizer_default"):
        draft.differ("template")
    if draft.remaining.get("special_tokens"):
        draft.differ("tokens")


def _read_adapter(draft: StageDraft) -> None:
    adapter = draft.take("adapter")
    if adapter not in (None, "lora", "qlora"):
        draft.refuse("adapter", f"the adapter is '{adapter}'", "ft trains whole models, LoRA and QLoRA.")
    draft.trains_adapter = adapter in ("lora", "qlora")
    if adapter == "qlora":
        draft.defaults("quantization", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True})


def _read_steps(draft: StageDraft) -> None:
    for name, block_key, strategy in (
        ("saves_per_epoch", "save_steps", "save_strategy"),
        ("evals_per_epoch", "eval_steps", "eval_strategy"),
    ):
        times, epochs = draft.take(name), draft.remaining.get("num_epochs", 1)
        if not (isinstance(times, int) and times > 0) or block_key in draft.remaining:
            continue
        draft.put("train", strategy, "epoch" if times == 1 else "steps", f"from {name}", draft.mark_of(name))
        if times > 1 and isinstance(epochs, (int, float)):
            draft.put("train", block_key, round(1 / (times * epochs), 4), f"from {name}", draft.mark_of(name))
            draft.differ("saves")
    draft.evaluation = "steps" if draft.remaining.get("eval_steps") else "epoch"
    if str(draft.remaining.get("gradient_checkpointing")).lower() in ("offload", "offload_disk", "unsloth"):
        draft.remaining["gradient_checkpointing"] = True
        draft.differ("gradients")
    for key in ("bf16", "fp16", "tf32"):
        if draft.remaining.get(key) == "auto":
            draft.omit(key, "ft computes in bfloat16 where nothing else is said.")
    optimizer = draft.take("optimizer")
    if optimizer:
        draft.put("train", "optim", NEAREST_OPTIMIZERS.get(optimizer, optimizer), mark=draft.mark_of("optimizer"))
        if optimizer in NEAREST_OPTIMIZERS:
            draft.differ("optimizer")
    ratio, mark = draft.take("cosine_min_lr_ratio"), draft.mark_of("cosine_min_lr_ratio")
    if ratio:
        draft.take("lr_scheduler")
        draft.put("train", "lr_scheduler_type", "cosine_with_min_lr", "from cosine_min_lr_ratio", mark)
        draft.put("train", "lr_scheduler_kwargs", Block({"min_lr_rate": ratio}, {"min_lr_rate": mark}, mark), mark=mark)
    if draft.take("batch_size") is not None:
        draft.refuse("batch_size", "batch_size counts rows over all GPUs there", "Write gradient_accumulation_steps.")
    draft.hold_out(draft.take("val_set_size"), draft.mark_of("val_set_size"), "val_set_size")


NEAREST_OPTIMIZERS = {"muon": "adamw_torch_fused", "came_pytorch": "adamw_torch_fused", "optimi_adamw": "adamw_torch"}


# Data


def _read_data(draft: StageDraft) -> None:
    for key, held_out in (("datasets", False), ("test_datasets", True), ("pretraining_dataset", False)):
        entries, mark = draft.take(key), draft.mark_of(key)
        if isinstance(entries, (str, Block)):
            entries = Items([entries], [mark], mark)
        for entry in entries if isinstance(entries, Items) else []:
            _read_source(draft, entry if isinstance(entry, Block) else Block({"path": entry}, {}, mark), key, held_out)
    if not draft.sources:
        draft.refuse("datasets", "no data set is named", "Write `datasets: [{path: …, type: …}]`.")


READ_OF_A_SOURCE = (
    *("path", "type", "split", "name", "revision", "data_files", "ds_type", "field", "conversation", "field_messages"),
    *("message_field_role", "message_field_content", "message_property_mappings", "roles", "roles_to_train"),
    *("train_on_eos", "text_column", "chat_template", "field_chosen", "field_rejected", "field_human", "field_model"),
    "message_field_training",
)


def _read_source(draft: StageDraft, entry: Block, key: str, held_out: bool) -> None:
    files = entry.get("data_files")
    path = files if isinstance(files, str) else files[0] if files else entry.get("path")
    if isinstance(files, list) and len(files) > 1:
        draft.problems.add(entry.where("data_files"), "several data files", "Write one data set for each.")
    hub_format = format_of(str(path))
    kind_of_row, columns = _format(draft, entry)
    values = {"path": path, "name": entry.get("name"), "split": entry.get("split")}
    values |= {"revision": entry.get("revision"), "format": kind_of_row or hub_format, "columns": columns}
    draft.unread(entry, READ_OF_A_SOURCE, key)
    draft.source(values, entry.marks.get("path", entry.mark), held_out=held_out)


def _format(draft: StageDraft, entry: Block) -> tuple[str | None, Mapping[str, str]]:
    """The format of a data set by its `type`, and which of its columns are ours."""
    row_type = entry.get("type")
    if isinstance(row_type, Block):
        return _own_format(draft, row_type)
    name = str(row_type or "")
    if name in ("chat_template", "chat_template.default", "chat_template.argilla") or name.startswith("sharegpt"):
        return _messages(draft, entry, name)
    for prefix, row_format, columns in BY_TYPE:
        if name.startswith(prefix):
            if row_format == "alpaca":
                draft.differ("prompts")
            labelled = row_format == "preference" and draft.kind.rows == "labelled answers"
            return "unpaired_preference" if labelled else row_format, columns(entry)
    if name and name != "None":
        draft.problems.add(entry.where("type"), f"the type '{name}' is not known", f"Known are: {', '.join(TYPES)}.")
    return None, {}


def _messages(draft: StageDraft, entry: Block, name: str) -> tuple[str, Mapping[str, str]]:
    """A conversation in a column, whose messages have from and value or role and content."""
    names = entry.get("message_property_mappings") or {
        "role": entry.get("message_field_role") or ("from" if name.startswith("sharegpt") else "role"),
        "content": entry.get("message_field_content") or ("value" if name.startswith("sharegpt") else "content"),
    }
    pair = (names.get("role", "role"), names.get("content", "content"))
    if pair not in (("from", "value"), ("role", "content")):
        what = f"messages are written as {pair[0]} and {pair[1]}"
        draft.problems.add(entry.where("type"), what, "Write the rows with role and content, or from and value.")
    roles = entry.get("roles_to_train")
    if draft.kind.rows == "conversations" and isinstance(roles, list):
        trained = "assistant" if {*roles} <= {"assistant", "gpt", "model"} else "all"
        draft.put("rows", "train_on", trained, "from roles_to_train", entry.marks["roles_to_train"])
    column = entry.get("field_messages") or ("conversations" if name.startswith("sharegpt") else "messages")
    if draft.kind.rows == "pairs":
        keys = {"chosen": entry.get("field_chosen"), "rejected": entry.get("field_rejected")}
        columns = {field: column_name for field, column_name in keys.items() if column_name not in (None, field)}
        if name == "chat_template.argilla":
            return "preference", columns
        return "sharegpt_pairs", {**columns, **_unless({"conversations": column})}
    if pair == ("from", "value"):
        return "sharegpt", _unless({"conversations": column})
    return "messages", _unless({"messages": column})


def _unless(columns: Mapping[str, str]) -> Mapping[str, str]:
    """Without what is called so already; `messages` and `conversations` are read under either name."""
    return {field: keys for field, keys in columns.items() if keys not in (field, "messages", "conversations")}


def _own_format(draft: StageDraft, row_type: Block) -> tuple[str, Mapping[str, str]]:
    """A type written out: which column is the instruction, the input, the answer, and how they are put together."""
    row_format = {"pairs": "preference", "labelled answers": "unpaired_preference"}.get(draft.kind.rows, "alpaca")
    formats: tuple[str, ...]
    if row_format == "preference":
        keys = {"prompt": "field_prompt", "chosen": "field_chosen", "rejected": "field_rejected"}
        formats = ("prompt_format", "chosen_format", "rejected_format")
    elif row_format == "unpaired_preference":
        keys = {"prompt": "field_prompt", "completion": "field_completion", "label": "field_label"}
        formats = ("prompt_format", "completion_format")
    else:
        keys = {"instruction": "field_instruction", "input": "field_input", "output": "field_output"}
        formats = ("format", "no_input_format", "system_format")
    keys["system"] = "field_system"
    if any(row_type.get(key) for key in formats):
        draft.differ("format")
    draft.unread(row_type, (*keys.values(), *formats), "datasets.type")
    columns = {field: row_type.get(key) for field, key in keys.items()}
    return row_format, {field: column for field, column in columns.items() if column and column != field}


def _no_columns(entry: Block) -> Mapping[str, str]:
    return {}


BY_TYPE: tuple[tuple[str, str, Any], ...] = (
    ("completion", "text", lambda entry: _one_column("text", entry.get("field"))),
    ("pretrain", "text", lambda entry: _one_column("text", entry.get("text_column"))),
    ("alpaca_chat.load_qa", "alpaca", lambda entry: {"instruction": "question", "output": "answer"}),
    ("alpaca_w_system", "alpaca", _no_columns),
    ("alpaca", "alpaca", _no_columns),
    ("gpteacher", "alpaca", lambda entry: {"output": "response"}),
    ("context_qa", "alpaca", lambda entry: {"instruction": "question", "input": "context", "output": "answer"}),
    ("chatml.intel", "preference", lambda entry: {"prompt": "question"}),
    ("llama3.intel", "preference", lambda entry: {"prompt": "question"}),
    ("chatml.prompt_pairs", "preference", _no_columns),
    ("chatml.argilla", "preference", lambda entry: {"prompt": "instruction"}),
    ("llama3.argilla", "preference", lambda entry: {"prompt": "instruction"}),
    ("chatml.ultra", "preference", _no_columns),
    ("llama3.ultra", "preference", _no_columns),
    ("zephyr.nectar", "preference", _no_columns),
    ("bradley_terry", "preference", _no_columns),
)
TYPES = ("chat_template", "sharegpt", *(name for name, _, _ in BY_TYPE))


def _one_column(field: str, keys: Any) -> Mapping[str, str]:
    return {field: keys} if keys and keys != field else {}
