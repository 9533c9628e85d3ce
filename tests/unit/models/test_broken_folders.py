"""Broken model folders end as `where: what. fix` before anything is trained: at plan time where the files tell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.models.load import load_base, load_scorer_base
from ft.models.processor import tokenizer_of
from ft.recipe import ModelSource

WEIGHTS = "model.safetensors"


def merge(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / file, {**read_json(folder / file), **values})


def write(file: str, content: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / file).write_bytes(content)

    return act


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return act


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def index(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        keys = load_file(folder / WEIGHTS)
        shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
        (folder / WEIGHTS).unlink()
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": dict.fromkeys(keys, name)})

    return act


def fifo(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"

PLANNED = {  # what the files alone tell
    "a pointer of Git LFS": (write(WEIGHTS, POINTER), "Git LFS"),
    "empty weights": (write(WEIGHTS, b""), WEIGHTS),
    "cut weights": (cut, WEIGHTS),
    "text for weights": (write(WEIGHTS, b"hello, these are no weights" * 9), WEIGHTS),
    "weights with a huge header": (write(WEIGHTS, b"\xff" * 64), WEIGHTS),
    "a pickle alone": (pickled, "safetensors"),
    "a pipe": (fifo, WEIGHTS),
    "an index with a path outside": (index("../outside.safetensors"), "outside.safetensors"),
    "an index with a file that is not there": (index("model-00001-of-00002.safetensors"), "model-00001-of-00002"),
    "config: a list": (write("config.json", b"[]"), "config.json"),
    "config: nothing": (write("config.json", b"{}"), "config.json: it has no model_type"),
    "config: no JSON": (write("config.json", b"{"), "config.json"),
    "config: attention from the Hub": (merge("config.json", _attn_implementation="org/kernel"), "org/kernel"),
    "tokenizer: an empty object": (write("tokenizer.json", b"{}"), "tokenizer.json"),
    "tokenizer: a list": (write("tokenizer.json", b"[]"), "tokenizer.json"),
    "tokenizer: cut": (write("tokenizer.json", b'{"version": "1.0", "truncation": nu'), "tokenizer.json"),
    "tokenizer_config: a list": (write("tokenizer_config.json", b"[]"), "tokenizer_config.json"),
    "generation_config: a list": (write("generation_config.json", b"[]"), "generation_config.json"),
}

LOADED = {  # what only the libraries know
    "config: unknown model_type": (merge("config.json", model_type="nothing_known"), "nothing_known"),
    "config: a word for a number": (merge("config.json", hidden_size="x"), "hidden_size"),
    "config: no width": (merge("config.json", hidden_size=0), "of another shape"),
    "config: another vocabulary": (merge("config.json", vocab_size=300), "embed_tokens.weight"),
    "config: another architecture": (merge("config.json", model_type="bert"), "missing"),
    "config: more layers than weights": (merge("config.json", num_hidden_layers=9), "layers.2.input_layernorm"),
    "config: fewer layers than weights": (merge("config.json", num_hidden_layers=1), "layers.1.input_layernorm"),
    "one tensor missing": (
        tensors(lambda found: {name: one for name, one in found.items() if "layers.1.mlp.up_proj" not in name}),
        "layers.1.mlp.up_proj.weight",
    ),
    "names with a prefix": (
        tensors(lambda found: {f"x.{name}" if "layers" in name else name: one for name, one in found.items()}),
        "layers",
    ),
}

TOKENIZERS = {
    "eos_token: a number": (merge("tokenizer_config.json", eos_token=5), "eos_token"),
    "model_max_length: a word": (merge("tokenizer_config.json", model_max_length="x"), "model_max_length"),
    "no end token": (merge("tokenizer_config.json", eos_token=None, pad_token=None), "eos_token"),
}


@pytest.fixture
def folder(tmp_path: Path, base: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


@pytest.mark.parametrize("case", PLANNED)
def test_what_files_tell_is_told_by_the_plan(case, folder, tmp_path, data):
    broken, word = PLANNED[case]
    broken(folder)
    with pytest.raises(UserError) as refused:
        tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=str(folder)), tmp_path / "runs")
    (line,) = str(refused.value).splitlines()
    assert line.startswith(str(folder))
    assert word in line


@pytest.mark.parametrize("case", LOADED)
@pytest.mark.parametrize("load", [load_base, load_scorer_base], ids=["base", "scorer"])
def test_no_broken_folder_is_loaded(case, load, folder):
    broken, word = LOADED[case]
    broken(folder)
    with pytest.raises(UserError) as refused:
        load(ModelSource(str(folder)), "float32", None, use_cpu=True)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(str(folder))
    assert word in line


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_broken_tokenizer_is_named(case, folder):
    broken, word = TOKENIZERS[case]
    broken(folder)
    with pytest.raises(UserError) as refused:
        tokenizer_of(ModelSource(str(folder)), None)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(str(folder))
    assert word in line


def test_several_faults_are_told_at_once(folder, tmp_path, data):
    for broken in (write("config.json", b"[]"), write("tokenizer.json", b"{}"), cut):
        broken(folder)
    with pytest.raises(UserError) as refused:
        tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=str(folder)), tmp_path / "runs")
    assert len(str(refused.value).splitlines()) == 3


def test_a_recipe_names_no_attention_from_the_hub(folder, tmp_path, data):
    model = {"path": str(folder), "attn_implementation": "org/kernel"}
    with pytest.raises(UserError, match=r"tiny.yaml:\d+: .*'org/kernel' is code from the Hub"):
        tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=model), tmp_path / "runs")
