"""Configs of TRL's scripts and of alignment-handbook, which is built on them: flat keys of several argument classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ft.recipe.yaml import Block, Items, Mark
from ft.tools.importing.config import TrainingConfig
from ft.tools.importing.data_sets import format_of, format_of_columns
from ft.tools.importing.draft import Omission, StageDraft, is_on, sequence

NAME = "TRL"

DIFFERENCES = {
    "cut": "TRL cuts rows at max_length without a word, in the middle of an answer; here the oldest turns are dropped, "
    "and what is still too long is dropped and counted.",
    "pairs_cut": "TRL cuts prompts and answers without a word; here a row that is too long is dropped and counted.",
    "orpo": "TRL's ORPO counts the likelihood of the prompt too, and longer answers more; here that of the chosen "
    "answer's own tokens, each pair alike, as the paper has it.",
    "questions": "TRL trains on the questions too, and so does `train_on: all`; `assistant` trains on answers alone.",
    "test_split": "TRL splits rows off at random, without a seed of its own; here whole conversations are held out by "
    "how they begin, so that no held-out question is trained on.",
    "test_in_train": "The mixture takes a test split into training, and so does the recipe: its evaluation is not "
    "held out. Remove the source to have it back.",
    "packed": "TRL before 0.20 packs end to end: rows see each other, and are cut where a packed row ends. Here they "
    "do neither.",
    "pad": "alignment-handbook pads with the end-of-sequence token, and older collators then train no end of an "
    "answer; here labels go by position.",
    "reference": "TRL's reference is the model with its adapter off; here it is the policy as the stage began, and "
    "the stage proves it before its first step.",
    "documents": "TRL cuts long documents into rows; here a document longer than max_length is dropped and counted. "
    "Split such documents before.",
}

METHOD_IN_NAME = r"(?:^|[^a-z])(sft|dpo|orpo|kto|cpo|simpo|grpo|rloo|ppo|reward|rm|cpt|apo)(?:[^a-z]|$)"
HANDBOOK = ("dataset_mixer", "dataset_mixture", "dataset_splits")
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}


def matches(config: TrainingConfig) -> bool:
    """TRL's own commands, or its keys in a file."""
    keys = config.values.keys()
    return config.command[:1] == ("trl",) or ("model_name_or_path" in keys and _has_data(keys))


def _has_data(keys: Any) -> bool:
    return not {*HANDBOOK, "dataset_name", "datasets"}.isdisjoint(keys)


def read(draft: StageDraft) -> None:
    """Fill the draft."""
    if not {*HANDBOOK}.isdisjoint(draft.remaining):
        draft.peer = "alignment-handbook"
        draft.differ("pad")
    if "rl" not in draft.remaining:
        _choose_kind(draft)
    _read_data(draft)
    draft.trains_adapter = is_on(draft.take("use_peft")) or is_on(draft.remaining.get("load_in_4bit"))
    _read_packing(draft)
    loss_type = draft.take("loss_type") if draft.has("loss_type") else None
    if isinstance(loss_type, str) and draft.has("loss_weights"):
        loss_type = sequence([loss_type], draft.mark_of("loss_type"))
    if loss_type is not None:
        draft.put("train", "loss_type", loss_type, mark=draft.mark_of("loss_type"))
    draft.place_remaining()
    draft.defaults("train", {"max_length": 1024})
    if draft.trains_adapter:
        draft.defaults("lora", LORA)
        draft.defaults("quantization", {"bnb_4bit_quant_type": "nf4"})
        if draft.kind.reference:
            draft.differ("reference")
    if draft.kind.rows == "conversations":
        prompts_apart = all(source.get("format") == "prompt_completion" for source in draft.sources)
        draft.defaults("rows", {"train_on": "completion" if prompts_apart else "all"})
        if draft.blocks["rows"]["train_on"] == "all":
            draft.differ("questions")
    preferences = dict.fromkeys(("pairs", "labelled answers"), "pairs_cut")
    draft.differ({**preferences, "documents": "documents"}.get(draft.kind.rows, "cut"))
    if draft.kind_name in DIFFERENCES:
        draft.differ(draft.kind_name)


def _choose_kind(draft: StageDraft) -> None:
    """TRL trains SimPO by its CPO script, and adds the likelihood of the chosen answers; SimPO's authors have a script
    of their own, which does not, and name the target margin as a part of beta."""
    method = method_of(draft.config)
    is_simpo = method == "cpo" and draft.remaining.get("loss_type") == "simpo"
    draft.choose_kind("simpo" if is_simpo else method, "model_name_or_path")
    if is_simpo and draft.remaining.get("cpo_alpha") is None:
        draft.put("train", "cpo_alpha", 1.0, f"{NAME}'s default")
    ratio, mark = draft.take("gamma_beta_ratio"), draft.mark_of("gamma_beta_ratio")
    if draft.has("simpo_gamma") and not is_simpo:
        beta = draft.remaining.get("beta", 2.0)
        draft.put("train", "beta", beta)
        if all(isinstance(value, int | float) for value in (ratio, beta)):
            draft.put("train", "simpo_gamma", round(ratio * beta, 6), "from gamma_beta_ratio", mark)


def method_of(config: TrainingConfig) -> str:
    """No key of a file says which script reads it: the command, the file's folder and name, or a key only some know."""
    if len(config.command) > 1:
        return config.command[1]
    parts = [config.path.stem, config.path.absolute().parent.name, str(config.values.get("output_dir", ""))]
    for part in parts:
        if match := re.search(METHOD_IN_NAME, part.lower()):
            return {"apo": "dpo"}.get(match[1], match[1])
    return "dpo" if {"beta", "max_prompt_length"} & config.values.keys() else "sft"


def _read_packing(draft: StageDraft) -> None:
    packs = is_on(draft.remaining.get("packing"))
    strategy = draft.take("packing_strategy")
    if packs and strategy in (None, "wrapped"):
        draft.differ("packed")
    elif packs and strategy not in ("ffd", "bfd", "bfd-requeue"):
        draft.put("train", "packing_strategy", strategy, mark=draft.mark_of("packing_strategy"))


# Data


def _read_data(draft: StageDraft) -> None:
    mixture = draft.take("dataset_mixture")
    mixer, splits = draft.take("dataset_mixer"), draft.take("dataset_splits")
    configs, columns = draft.take("dataset_configs"), draft.take("columns_to_keep")
    name, listed = draft.take("dataset_name"), draft.take("datasets")
    if isinstance(mixture, Block):
        _read_mixture(draft, mixture)
    elif isinstance(mixer, Block):
        _read_mixer(draft, mixer, splits, configs, columns)
    elif isinstance(listed, Items):
        for entry in listed:
            _add(draft, entry, entry.mark if isinstance(entry, Block) else listed.mark)
    elif isinstance(name, str):
        _read_name(draft, name)
    else:
        draft.refuse("dataset_name", "no data set is named", "Write `dataset_name: …` or `dataset_mixture:`.")
    draft.hold_out(draft.take("test_split_size"), draft.mark_of("test_split_size"), "test_split_size")


def _read_name(draft: StageDraft, name: str) -> None:
    mark = draft.mark_of("dataset_name")
    common = {"path": name, "name": draft.take("dataset_config"), "format": format_of(name)}
    common["streaming"] = draft.take("dataset_streaming")
    draft.source({**common, "split": draft.take("dataset_train_split")}, mark)
    test_split = draft.take("dataset_test_split")
    if draft.remaining.get("eval_strategy", "no") != "no":
        draft.source({**common, "split": test_split or "test"}, mark, held_out=True)


def _read_mixer(draft: StageDraft, mixer: Block, splits: Any, configs: Any, columns: Any) -> None:
    """The older layout: {data set: share} and one list of splits, of which `train…` are trained on."""
    names = [split for split in splits if isinstance(split, str)] if isinstance(splits, list) else ["train", "test"]
    configs = configs if isinstance(configs, list) else []
    for place, (name, share) in enumerate(mixer.items()):
        config = configs[place] if place < len(configs) else None
        for split in names:
            tested = "test" in split
            values = {"path": name, "name": config, "split": split}
            values["format"] = format_of(name) or format_of_columns(columns)
            values["weight"] = share if share != 1 and not tested else None
            draft.source(values, mixer.marks[name], held_out=tested)


def _read_mixture(draft: StageDraft, mixture: Block) -> None:
    entries = mixture.get("datasets")
    for entry in entries if isinstance(entries, Items) else []:
        if isinstance(entry, Block):
            if "test" in str(entry.get("split", "")):
                draft.differ("test_in_train")
            _add(draft, entry, entry.mark)
    mark = mixture.marks.get("test_split_size", mixture.mark)
    draft.hold_out(mixture.get("test_split_size"), mark, "test_split_size")
    if mixture.get("seed") not in (None, 0):
        draft.remaining.put("mixture_seed", mixture["seed"], mixture.marks["seed"])
        draft.omit("mixture_seed", "The recipe's `seed` decides the mixture too.")


def _add(draft: StageDraft, entry: Any, mark: Mark) -> None:
    """An entry of a list of data sets, the handbook's or TRL's."""
    if not isinstance(entry, Block):
        draft.problems.add(str(mark), "a data set is a mapping", "Write `- id: …` and its keys.")
        return
    path = entry.get("id") or entry.get("path")
    share = entry.get("weight", entry.get("fraction"))
    values = {"path": path, "name": entry.get("config") or entry.get("name"), "split": entry.get("split")}
    values["format"] = format_of(str(path)) or format_of_columns(entry.get("columns"))
    values["weight"] = share if share not in (1, None) else None
    values["revision"] = entry.get("revision")
    columns = entry.get("columns")
    if extra := [name for name in columns if name not in READ_COLUMNS] if isinstance(columns, list) else []:
        why = "ft gives a chat template the messages of a row and nothing else."
        draft.omissions.append(Omission(entry.where("columns"), "columns", ", ".join(map(str, extra)), why))
    draft.unread(entry, READ_OF_A_SOURCE, "datasets")
    has_files = entry.get("data_files") and path in ("json", "csv", "parquet")
    for file in _data_files(entry) if has_files else [path]:
        draft.source({**values, "path": file}, mark)


def _data_files(entry: Block) -> list[Any]:
    """What `load_dataset("json", data_files=…)` would read for the entry's split: one file, several, or by split."""
    files = entry.get("data_files")
    if isinstance(files, Mapping):
        files = files.get(str(entry.get("split") or "train"))
    return list(files) if isinstance(files, list) else [files]


READ_COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected", "text")
READ_OF_A_SOURCE = (
    *("id", "path", "weight", "fraction", "config", "name", "split", "columns", "revision", "data_files"),
)
