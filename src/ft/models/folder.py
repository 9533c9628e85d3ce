"""What a model's folder tells without any library: whether its files are whole, and values of its config.json.

Each library raises errors of its own kind for a broken file, some of them an hour in, and some read a file for ever. So
files are looked at when a recipe is planned and before they are loaded: headers and small files alone, in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import Problem, Problems
from ft.recipe import ModelSource

SETTINGS = (
    *(artifacts.CONFIG, artifacts.GENERATION_CONFIG, artifacts.ADAPTER_CONFIG, artifacts.LINEAGE),
    *(artifacts.TOKENIZER_CONFIG, artifacts.SPECIAL_TOKENS),
)
WEIGHTS = (".safetensors", ".index.json")
POINTER = b"version https://git-lfs"  # how a file begins that `git clone` without LFS leaves in the place of another
MOST_HEADER = 100_000_000  # bytes; safetensors' own limit
AGAIN = "Download or copy the file again."


def check_model_folder(folder: Path) -> None:
    """Raise UserError with everything that is wrong with the files a model is loaded from."""
    Problems(folder_problems(folder)).raise_any()


def folder_problems(folder: Path) -> Iterator[Problem]:
    """What is wrong with a model's files. A config.json alone is a shape to plan with, and no fault."""
    names = {file.name for file in folder.iterdir()}
    for name in sorted(names):
        file = folder / name
        if not (name.endswith(WEIGHTS) or name in (*SETTINGS, artifacts.TOKENIZER)):
            continue
        if not file.is_file():  # a pipe would be read for ever
            yield Problem(str(file), "it is no file", "Put the model's own there.")
        elif name.endswith(".safetensors"):
            yield from _weights(file)
        elif name.endswith(".index.json"):
            yield from _index(file)
        elif name == artifacts.TOKENIZER:
            yield from _tokenizer(file)
        else:
            yield from _settings(file)
    if artifacts.ADAPTER_CONFIG in names and artifacts.ADAPTER_WEIGHTS not in names:
        yield Problem(str(folder), f"it holds no {artifacts.ADAPTER_WEIGHTS}", "Save it again, as safetensors.")
    elif artifacts.CONFIG in names and len(names) > 1 and not any(name.endswith(WEIGHTS) for name in names):
        what = "it holds no weights in .safetensors files"
        pickles = [name for name in sorted(names) if name.endswith((".bin", ".pt", ".pth"))]
        if pickles:
            what += f", and {pickles[0]} is a pickle, which may run code"
        yield Problem(str(folder), what, "Save it by `save_pretrained` of transformers 4.36 or later.")


def _weights(file: Path) -> Iterator[Problem]:
    """The header of a safetensors file: eight bytes of its length, JSON with the place of each tensor, then these."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
        opened.seek(0)
        if start == POINTER:
            yield Problem(str(file), "it is a pointer of Git LFS, not the weights", "Run `git lfs pull` there.")
            return
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or not 0 < length <= min(MOST_HEADER, size - 8):
            yield Problem(str(file), "it is no safetensors file, or only the beginning of one", AGAIN)
            return
        header = _object(opened.read(length))
    try:
        ends = [entry["data_offsets"][1] for name, entry in (header or {}).items() if name != "__metadata__"]
    except (KeyError, TypeError, IndexError):
        ends = []
    if not ends or max(ends) + 8 + length != size:
        yield Problem(str(file), "it does not hold the tensors that its header lists", AGAIN)


def _index(file: Path) -> Iterator[Problem]:
    shards = (_object(file.read_bytes()) or {}).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        yield Problem(str(file), "it does not say which file holds which weight (weight_map)", AGAIN)
        return
    for name in sorted(set(shards.values())):
        if Path(name).name != name or name.startswith("."):
            yield Problem(str(file), f"it names {name}, which is not in this folder", "Name files of this folder.")
        elif not (file.parent / name).exists():
            yield Problem(str(file), f"there is no {name}, which it names", AGAIN)


def _tokenizer(file: Path) -> Iterator[Problem]:
    """Tens of megabytes that are read when it is loaded; here only whether it is a whole object."""
    text = file.read_bytes().strip()
    if len(text) < 3 or not (text.startswith(b"{") and text.endswith(b"}")):
        yield Problem(str(file), "it holds no whole tokenizer", AGAIN)


def _settings(file: Path) -> Iterator[Problem]:
    values = _object(file.read_bytes())
    if values is None:
        yield Problem(str(file), "it is no JSON object", AGAIN)
    elif file.name == artifacts.TOKENIZER_CONFIG:
        longest = values.get("model_max_length", 0)
        if not isinstance(longest, (int, float)):  # transformers compares it with lengths when it encodes
            yield Problem(str(file), f"model_max_length is {longest!r}", "Write a number of tokens.")
    elif file.name == artifacts.CONFIG:
        if not isinstance(values.get("model_type"), str):
            yield Problem(str(file), "it has no model_type", AGAIN)
        attention = values.get("_attn_implementation", values.get("attn_implementation"))
        if isinstance(attention, str) and "/" in attention:
            what = f"its attention '{attention}' is code from the Hub, which ft does not run"
            yield Problem(str(file), what, "Remove the key, or write eager, sdpa or flash_attention_2.")


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def config_values(folder: Path) -> dict[str, Any]:
    """config.json as it is written; {} where there is none or it is broken. Class defaults are left out there."""
    file = folder / artifacts.CONFIG
    return (_object(file.read_bytes()) if file.is_file() else None) or {}


def known_folder(model: ModelSource | None) -> Path | None:
    """The model's folder, or what the Hub's cache on this machine holds of it; None where nothing is here."""
    if model is None or model.folder is not None:
        return model.folder if model else None
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no id of the Hub
        file = try_to_load_from_cache(model.path, artifacts.CONFIG, revision=model.revision)
        return Path(file).parent if isinstance(file, str) else None
    return None


def module_names(folder: Path) -> set[str]:
    """Modules of the model by the names of its tensors, each with those it is part of; none where these are not here,
    or where experts are held in other modules than the file's names say."""
    tensors = {
        tensor
        for file in folder.glob("*.safetensors.index.json")
        for tensor in (_object(file.read_bytes()) or {}).get("weight_map", ())
    }
    for file in () if tensors else folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            tensors |= (_object(opened.read(int.from_bytes(opened.read(8), "little"))) or {}).keys() - {"__metadata__"}
    parts = [tensor.split(".") for tensor in tensors]
    if any("experts" in names for names in parts):
        return set()
    return {".".join(names[:end]) for names in parts for end in range(1, len(names))}
