"""Configs of LLaMA-Factory: flat keys of transformers and its own, and data sets named in its `dataset_info.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.files import read_json
from ft.recipe.yaml import Mark
from ft.tools.importing.config import TrainingConfig
from ft.tools.importing.data_sets import format_of
from ft.tools.importing.draft import PARENTS, StageDraft, is_on, items_of, sequence

NAME = "LLaMA-Factory"

DIFFERENCES = {
    "cut": "LLaMA-Factory cuts prompts and answers at cutoff_len without a word; here the oldest turns go, and "
    "what is still too long is dropped and counted.",
    "pairs_cut": "LLaMA-Factory cuts rows of preferences at cutoff_len without a word; here one that is too long is "
    "dropped and counted.",
    "template": "LLaMA-Factory writes rows by a template of its own of this name; here the model's own chat template "
    "is used. Write `chat_template:` at the top where the model has none.",
    "system": "LLaMA-Factory's template of this name begins with a system message where the row has none; here there "
    "is none.",
    "packed": "LLaMA-Factory's `packing` lets rows of one packed row see each other (`neat_packing` does not). Here "
    "they never do.",
    "test_split": "LLaMA-Factory splits rows off at random; here whole conversations are held out by how they begin.",
    "pad": "LLaMA-Factory pads with the end-of-sequence token where a model has no other; labels go by position there "
    "and here.",
    "reference": "LLaMA-Factory's reference is the raw base when the policy goes on with an SFT adapter on a "
    "quantised base; here it is the policy as the stage began, and the stage proves it before its first step.",
    "query": "LLaMA-Factory puts the column input behind the instruction of a pair; here it is not read: join the two "
    "where rows have one.",
    "documents": "LLaMA-Factory joins documents and cuts them at cutoff_len; here a document longer than that is "
    "dropped and counted. Split such documents before.",
}

TEMPLATES = {"llama2": "llama2", "llama3": "llama3", "chatml": "chatml", "qwen": "chatml", "default": "plain"}
WITH_SYSTEM = ("qwen", "llama2")
LORA = {"r": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
TRAIN = {"max_length": 2048, "learning_rate": 5e-5, "gradient_checkpointing": True}
PREFERENCE = {"beta": 0.1, "simpo_gamma": 0.5}
METHOD_OF_LOSS = ("orpo", "simpo")


def matches(config: TrainingConfig) -> bool:
    """Its command, or keys that only it has."""
    keys = config.values.keys()
    own_keys = {"finetuning_type", "cutoff_len", "dataset_dir", "lora_target", "pref_loss", "quantization_bit"}
    return config.command[:1] == ("llamafactory-cli",) or ("model_name_or_path" in keys and bool(own_keys & keys))


def read(draft: StageDraft) -> None:
    """Fill the draft."""
    loss, stage = draft.take("pref_loss"), draft.take("stage") or "sft"
    draft.choose_kind(loss if loss in METHOD_OF_LOSS else stage, "pref_loss" if loss in METHOD_OF_LOSS else "stage")
    if loss and draft.has("loss_weights"):
        draft.put("train", "loss_type", sequence([loss], draft.mark_of("pref_loss")), mark=draft.mark_of("pref_loss"))
    _read_sft_loss(draft)
    _read_template(draft)
    _read_data(draft)
    _read_adapter(draft)
    _read_packing(draft)
    draft.hold_out(draft.take("val_size"), draft.mark_of("val_size"), "val_size")
    if draft.take("pure_bf16"):
        draft.put("train", "bf16", True, "from pure_bf16", draft.mark_of("pure_bf16"))
        draft.put("model", "dtype", "bfloat16", "from pure_bf16", draft.mark_of("pure_bf16"))
    draft.take_prompt_length("cutoff_len")
    if not draft.kind.rows:
        for key in ("top_k", "top_p"):
            draft.omit(key, "Answers are sampled from the distribution whose log-probabilities are trained on.")
    draft.place_remaining()
    draft.defaults("train", {**TRAIN, "max_completion_length": 1024})
    draft.defaults("train", PREFERENCE)
    if draft.kind.reference and draft.trains_adapter:
        draft.differ("reference")
    preferences = dict.fromkeys(("pairs", "labelled answers"), "pairs_cut")
    draft.differ({**preferences, "documents": "documents"}.get(draft.kind.rows, "cut"))


def _read_sft_loss(draft: StageDraft) -> None:
    """`pref_ftx` adds the loss of the chosen answers."""
    share, mark = draft.remaining.get("pref_ftx"), draft.mark_of("pref_ftx")
    if share and draft.has("cpo_alpha"):
        draft.put("train", "cpo_alpha", draft.take("pref_ftx"), "from pref_ftx", mark)
    elif share and draft.kind.rows == "pairs" and not draft.has("loss_weights"):
        draft.omit("pref_ftx", "ORPO learns the chosen answers with a weight of 1 already.")
    elif draft.take("pref_ftx") and draft.has("loss_weights"):
        value = draft.block("train").pop("loss_type", None) or ["sigmoid"]
        losses = [*dict.fromkeys([*value, "sft"])]
        weights = [share if name == "sft" else 1.0 for name in losses]
        draft.put("train", "loss_type", sequence(losses, mark), "from pref_ftx", mark)
        draft.put("train", "loss_weights", sequence(weights, mark), mark=mark)


def _read_template(draft: StageDraft) -> None:
    name, mark = draft.take("template"), draft.mark_of("template")
    if name in TEMPLATES:
        draft.template = (TEMPLATES[name], mark)
    if name in WITH_SYSTEM:
        draft.differ("system")
    elif name and name not in TEMPLATES:
        draft.differ("template")


def _read_adapter(draft: StageDraft) -> None:
    method = draft.take("finetuning_type") or "lora"
    if method not in ("lora", "full"):
        draft.refuse("finetuning_type", f"finetuning_type is '{method}'", "ft trains whole models, LoRA and QLoRA.")
    draft.trains_adapter = method == "lora"
    bits, by = draft.take("quantization_bit"), draft.take("quantization_method", "quantization_device_map")
    if bits is not None:
        mark = draft.mark_of("quantization_bit")
        if by not in (None, "bnb", "bitsandbytes", "auto"):
            draft.refuse("quantization_method", f"it quantises by {by}", "ft has bitsandbytes' 4 and 8 bits.")
        if bits not in (4, 8):
            draft.refuse("quantization_bit", f"{bits} bits", "ft has 4 and 8, by bitsandbytes.")
        draft.put("quantization", f"load_in_{bits}bit", True, "from quantization_bit", mark)
        if bits == 4:
            draft.defaults("quantization", {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True})
    if draft.trains_adapter:
        rank = draft.remaining.get("lora_rank", LORA["r"])
        if draft.remaining.get("lora_alpha") is None:
            draft.take("lora_alpha")
            draft.put("lora", "lora_alpha", rank * 2, "LLaMA-Factory's default: twice the rank")
        target = draft.remaining.get("lora_target")
        if target is None:
            draft.take("lora_target")
            draft.defaults("lora", {"target_modules": "all-linear"})
        draft.defaults("lora", {key: value for key, value in LORA.items() if _LORA_NAMES[key] not in draft.remaining})


_LORA_NAMES = {"r": "lora_rank", "lora_dropout": "lora_dropout", "target_modules": "lora_target"}


def _read_packing(draft: StageDraft) -> None:
    neat, packs = is_on(draft.take("neat_packing")), is_on(draft.take("packing"))
    if (neat or packs) and draft.kind.rows == "conversations":
        draft.put("train", "packing", True, mark=draft.mark_of("packing"))
        if not neat:
            draft.differ("packed")


# Data


def _read_data(draft: StageDraft) -> None:
    infos, folder = _dataset_infos(draft)
    rows, streaming = draft.take("max_samples"), draft.take("streaming")
    extra = {"rows": rows, "streaming": streaming or None}
    for key, held_out in (("dataset", False), ("eval_dataset", True)):
        for name, mark in items_of(draft.take(key), draft.mark_of(key)):
            info = infos.get(name) if infos is not None else {}
            if not isinstance(info, Mapping):
                draft.problems.add(str(mark), f"'{name}' is not in {folder}", f"There are: {', '.join(infos or ())}.")
            elif infos is None and format_of(str(name)) is None:
                fix = "Write `dataset_dir: …`, the folder of LLaMA-Factory's dataset_info.json."
                draft.problems.add(str(mark), f"no dataset_info.json says what '{name}' is", fix)
            else:
                _read_info(draft, name, info, Path(folder).parent, mark, extra, held_out)
    if not draft.config.values.get("dataset"):
        draft.refuse("dataset", "no data set is named", "Write `dataset: …`.")


def _dataset_infos(draft: StageDraft) -> tuple[Mapping[str, Any] | None, str]:
    """dataset_info.json of `dataset_dir`, relative to where LLaMA-Factory is started, and its path; None: not there."""
    value = str(draft.take("dataset_dir") or "data")
    folder_of_config = draft.config.path.resolve().parent
    for start in (Path.cwd(), folder_of_config, *list(folder_of_config.parents)[:PARENTS]):
        file = start / value / "dataset_info.json"
        infos = read_json(file)
        if isinstance(infos, dict):
            return infos, str(file)
    return None, value


def _read_info(
    draft: StageDraft,
    name: str,
    info: Mapping[str, Any],
    folder: Path,
    mark: Mark,
    extra: Mapping[str, Any],
    held_out: bool,
) -> None:
    """An entry of dataset_info.json: where the rows are, how they are written, what their columns are called."""
    columns = info.get("columns") or {}
    for column in ("images", "videos", "audios"):
        if columns.get(column):
            draft.problems.add(str(mark), f"the rows of '{name}' have {column}", "ft trains on text; leave it out.")
    if info.get("script_url"):
        draft.problems.add(str(mark), f"'{name}' is made by a script", "No code is run: write its rows to a file.")
    hub = info.get("hf_hub_url") or (info.get("ms_hub_url") if not info.get("file_name") else None)
    path = hub or (str(folder / info["file_name"]) if info.get("file_name") else name)
    row_format, field = _format(draft, info, columns)
    values: dict[str, Any] = {"path": path, "name": info.get("subset"), "split": info.get("split")}
    values |= {"revision": info.get("revision"), "format": row_format or format_of(str(path)), "columns": field}
    values["rows"] = info.get("num_samples")
    draft.source({**values, **{key: value for key, value in extra.items() if value}}, mark, held_out=held_out)


def _format(
    draft: StageDraft, info: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[str | None, Mapping[str, str]]:
    """The format of a data set, and which of its columns are ours."""
    if not info:
        return None, {}
    if info.get("formatting", "alpaca") in ("sharegpt", "openai"):
        row_format, renamed = _conversations(info, columns)
    else:
        row_format, renamed = _instructions(draft, info, columns)
    same = {name: columns[name] for name in ("system", "history", "chosen", "rejected") if columns.get(name)}
    if draft.kind.rows == "labelled answers" and columns.get("kto_tag"):
        same["label"] = columns["kto_tag"]
    return row_format, {name: column for name, column in {**renamed, **same}.items() if name != column}


def _conversations(info: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    by_openai = info.get("formatting") == "openai"
    by_role = by_openai or (info.get("tags") or {}).get("role_tag") == "role"
    column = columns.get("messages", "messages" if by_openai else "conversations")
    if by_role and info.get("ranking"):
        return "preference", {"prompt": column}
    renamed = {} if column in ("messages", "conversations") else {"messages" if by_role else "conversations": column}
    return "messages" if by_role else "sharegpt_pairs" if info.get("ranking") else "sharegpt", renamed


def _instructions(draft: StageDraft, info: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    if draft.kind.rows == "documents":
        return "text", {"text": columns.get("prompt", "text")}
    if info.get("ranking"):
        if columns.get("query") or not columns:
            draft.differ("query")
        return "preference", {"prompt": columns.get("prompt", "instruction")}
    keys = {"instruction": "prompt", "input": "query", "output": "response"}
    return "alpaca", {name: columns[key] for name, key in keys.items() if columns.get(key)}
