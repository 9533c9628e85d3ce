"""What is loaded: which weights, in which precision, on which base; and what identifies a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import tiny
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.models.adapters import adapters_kept
from ft.models.identity import model_fingerprint, model_identity
from ft.models.lineage import parts, save_lineage
from ft.models.load import load, share, start
from ft.models.processor import tokenizer_of
from ft.recipe import ModelSource


def begun(base: Path, lora=None, compute="float32", **source):
    return start(ModelSource(str(base), **source), None, lora, None, compute, use_cpu=True)


def dtypes(model) -> dict[bool, set[torch.dtype]]:
    """Precisions by whether a parameter is trained."""
    found: dict[bool, set[torch.dtype]] = {}
    for parameter in model.parameters():
        found.setdefault(parameter.requires_grad, set()).add(parameter.dtype)
    return found


def test_what_is_trained_whole_is_float32_whatever_it_computes_in(base):
    assert dtypes(begun(base, compute="bfloat16")) == {True: {torch.float32}}


def test_a_frozen_base_is_held_as_it_computes_and_its_adapter_in_float32(base):
    assert dtypes(begun(base, tiny.LORA, compute="bfloat16")) == {False: {torch.bfloat16}, True: {torch.float32}}


def test_a_recipes_dtype_wins(base):
    assert dtypes(begun(base, dtype="bfloat16")) == {True: {torch.bfloat16}}
    assert dtypes(begun(base, tiny.LORA, "bfloat16", dtype="float32")) == {
        False: {torch.float32},
        True: {torch.float32},
    }


def test_a_recipes_dtype_and_attention_hold_for_later_stages_too(base):
    source = ModelSource("never opened", dtype="bfloat16", attn_implementation="eager")
    model = start(source, base, None, None, "float32", use_cpu=True)
    assert dtypes(model) == {True: {torch.bfloat16}}
    assert model.config._attn_implementation == "eager"


def test_adapters_return_as_they_were(base):
    model = begun(base, tiny.LORA)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    with adapters_kept(model):
        for value in model.parameters():
            value.data = value.data.to(torch.bfloat16)
    after = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def adapter(folder: Path, base: Path) -> Path:
    """A saved adapter, and the record of its base."""
    torch.manual_seed(0)
    model = begun(base, {**tiny.LORA, "init_lora_weights": False})
    model.save_pretrained(str(folder))
    save_lineage(folder, ModelSource(str(base)), None, None)
    return folder


def test_an_adapter_folder_loads_on_its_base(tmp_path, base):
    model = load(adapter(tmp_path / "adapter", base), "float32", use_cpu=True)
    names = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(names) == 28
    assert not model.training
    unset = dict.fromkeys(("revision", "dtype", "attn_implementation", "attention", "rope"))
    lineage = {"base": {"path": str(base), **unset}, "quantization": None}
    assert read_json(tmp_path / "adapter" / "lineage.json") == lineage


def test_an_adapter_made_elsewhere_names_its_base_itself(tmp_path, base):
    folder = adapter(tmp_path / "adapter", base)
    (folder / "lineage.json").unlink()
    assert load(folder, "float32", use_cpu=True).peft_config["default"].base_model_name_or_path == str(base)


def test_lineage_points_to_the_whole_weights_through_adapters(tmp_path, base):
    first = adapter(tmp_path / "first", base)
    save_lineage(tmp_path / "second", None, first, {"load_in_4bit": True})
    assert read_json(tmp_path / "second" / "lineage.json")["base"]["path"] == str(base)


def test_without_a_pad_token_the_end_of_turn_pads(tmp_path, base):
    shutil.copytree(base, tmp_path / "base")
    config = read_json(tmp_path / "base" / "tokenizer_config.json")
    del config["pad_token"]
    write_json(tmp_path / "base" / "tokenizer_config.json", config)
    assert tokenizer_of(None, tmp_path / "base").pad_token == "<|im_end|>"


def test_the_recipes_template_wins_over_the_models(base):
    assert "<|im_start|>" in tokenizer_of(ModelSource(str(base)), None, None).chat_template
    assert "[INST]" in tokenizer_of(ModelSource(str(base)), None, "llama2").chat_template


def test_a_model_is_its_weights_and_its_tokenizer(tmp_path, base):
    shutil.copytree(base, tmp_path / "copy")
    before = model_fingerprint(ModelSource(str(base)), None)
    assert model_fingerprint(ModelSource(str(tmp_path / "copy")), None) == before
    (tmp_path / "copy" / "README.md").write_text("words", encoding="utf-8")
    assert model_fingerprint(ModelSource(str(tmp_path / "copy")), None) == before
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    after = model_fingerprint(ModelSource(str(tmp_path / "copy")), None)
    assert (after["weights"] == before["weights"], after["tokenizer"] == before["tokenizer"]) == (True, False)


def test_a_hub_model_is_its_name_and_revision():
    source = ModelSource("owner/name", revision="abc")
    assert model_fingerprint(source, None) == {"path": "owner/name", "revision": "abc"}
    assert model_identity(source, None) == "owner/name@abc"


def test_a_models_identity_is_that_of_the_stage_that_made_it_or_of_its_bytes_and_never_its_path(base, tmp_path):
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    assert model_identity(copy, None) == model_identity(ModelSource(str(base)), None)
    write_json(copy / "done.json", {"stage": "sft", "kind": "sft", "fingerprint": "0123456789ab", "numbers": {}})
    assert model_identity(copy, None) == "0123456789ab"
    assert model_identity(ModelSource("gpt2"), None) == "gpt2"


def test_a_saved_tokenizer_names_what_transformers_4_and_5_both_know(base, tmp_path):
    """transformers 4.57 opens this one; the one that transformers 5 writes, it does not."""
    tokenizer_of(None, base).save_pretrained(str(tmp_path))
    settings = read_json(tmp_path / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "TokenizersBackend"
    identity = model_identity(tmp_path, None)
    share(tmp_path)
    assert model_identity(tmp_path, None) == identity  # results that are named by it are found
    settings = read_json(tmp_path / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<|im_start|>"]
    assert {"is_local", "local_files_only", "extra_special_tokens"}.isdisjoint(settings)
    one, other = (tokenizer_of(None, folder) for folder in (base, tmp_path))
    text = "<|im_start|>user\nsky?<|im_end|>"
    assert one(text)["input_ids"] == other(text)["input_ids"]
    assert (one.all_special_tokens, one.chat_template) == (other.all_special_tokens, other.chat_template)


def chain(runs: Path, base: Path) -> Path:
    """A finished whole model and an adapter on it, as two stages of a recipe leave them; the adapter's folder."""
    whole = Path(shutil.copytree(base, runs / "recipe" / "first-0123456789ab"))
    write_json(whole / "done.json", {"stage": "first", "kind": "sft", "fingerprint": "0123456789ab", "numbers": {}})
    folder = adapter(runs / "recipe" / "second-ba9876543210", base)
    save_lineage(folder, None, whole, None)
    return folder


def test_a_runs_folder_that_was_moved_opens(base, tmp_path):
    chain(tmp_path / "runs", base)
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "recipe" / "second-ba9876543210"
    whole = parts(folder)[0].folder
    assert whole == (tmp_path / "elsewhere" / "recipe" / "first-0123456789ab").resolve()
    load(folder, "float32", use_cpu=True)


@pytest.mark.parametrize("written", ["today", "before"])
def test_a_copied_runs_folder_reads_its_own_base_and_not_the_one_left_behind(written, base, tmp_path):
    folder = chain(tmp_path / "runs", base)
    if written == "before":
        lineage = read_json(folder / "lineage.json")
        lineage["base"]["path"] = str(tmp_path / "runs" / "recipe" / "first-0123456789ab")
        write_json(folder / "lineage.json", lineage)
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    assert str(parts(tmp_path / "copy" / "recipe" / folder.name)[0].folder).startswith(str(tmp_path / "copy"))
    assert str(parts(folder)[0].folder).startswith(str(tmp_path / "runs"))


def test_an_adapter_that_was_taken_out_of_its_runs_folder_says_what_it_lacks(base, tmp_path):
    folder = chain(tmp_path / "runs", base)
    shutil.copytree(folder, tmp_path / "alone" / "here" / "adapter")
    with pytest.raises(UserError, match=r"the model it stands on is not at .*first-0123456789ab"):
        load(tmp_path / "alone" / "here" / "adapter", "float32", use_cpu=True)
