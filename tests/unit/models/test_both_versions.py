"""Settings that transformers 4 and 5 read alike, and that name the same model as before.

The values are what transformers 4.57 reads; docs/correctness.md says how near both versions come.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ft.files import read_json
from ft.models.both_versions import identifying, tokenizer_for_both, write_for_both

SAVED = {
    "backend": "tokenizers",
    "extra_special_tokens": ["<|user|>"],
    "is_local": True,
    "local_files_only": True,
    "pad_token": "<|pad|>",
    "tokenizer_class": "TokenizersBackend",
}
BYTES = {"type": "ByteLevel", "add_prefix_space": True}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
LAYERS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e5},
}
CONFIGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "as usual": ("llama", {"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
    "scaled": (
        "llama",
        {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    ),
    "of some dimensions": (
        "glm4",
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        {"rope_theta": 1e4, "partial_rotary_factor": 0.25},
    ),
    "by other names": (
        "gpt_neox",
        {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5},
        {"rotary_emb_base": 2e4, "rotary_pct": 0.5},
    ),
    "of two sorts of layers": (
        "gemma3_text",
        LAYERS,
        {"rope_theta": 3e5, "rope_local_base_freq": 2e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "for long rows": (
        "phi3",
        {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, **LONG},
        {"rope_theta": 1e4, "partial_rotary_factor": 1.0, "rope_scaling": {"type": "longrope", **LONG}},
    ),
    "with experts": (
        "qwen3_moe",
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_theta": 1e4, "num_experts": 6},
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_says_what_both_read_and_is_still_the_same(case: str, tmp_path: Path) -> None:
    architecture, rope, added = CONFIGS[case]
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "head_dim": 16}
    more = {"num_experts": 6} if architecture == "qwen3_moe" else {}
    config = AutoConfig.for_model(architecture, **sizes, **more, rope_parameters=rope)
    config.save_pretrained(str(tmp_path))
    file = tmp_path / "config.json"
    before, values = file.read_bytes(), read_json(file)
    for _ in range(2):  # an export is copied from a result, where it is done already
        write_for_both(tmp_path)
        assert read_json(file) == {**values, **added}
        assert identifying("config.json", file.read_bytes()) == before
    AutoConfig.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path / "again"))
    again = read_json(tmp_path / "again" / "config.json")
    again["rope_parameters"].pop("type", None)  # the older name of rope_type
    assert {key: again.get(key) for key in values} == values


def text(settings: dict[str, object]) -> bytes:
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()  # as transformers 5 writes it


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (BYTES, {"add_prefix_space": True}),
        ({**BYTES, "add_prefix_space": False}, {"add_prefix_space": False}),
        ({"type": "Metaspace"}, {}),
        ({"type": "Sequence", "pretokenizers": [BYTES]}, {}),  # which 4.57 leaves as it is
        (None, {}),
    ],
)
def test_a_tokenizer_says_what_both_read_and_is_still_the_same(splits, words, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": splits}), encoding="utf-8")
    file = tmp_path / "tokenizer_config.json"
    file.write_bytes(text(SAVED))
    for _ in range(2):
        write_for_both(tmp_path)
        assert read_json(file) == {
            "backend": "tokenizers",
            "pad_token": "<|pad|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": ["<|user|>"],
            **words,
        }
        assert identifying(file.name, file.read_bytes()) == text(SAVED)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "LlamaTokenizer", "backend": "x"},
        {"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e4},
        [],
    ],
)
def test_settings_that_others_wrote_are_identified_by_their_bytes(settings):
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert identifying(name, text(settings)) == text(settings)
        assert identifying(name, b"{") == b"{"


def test_a_tokenizer_of_another_class_is_left_as_it_is():
    assert tokenizer_for_both({"tokenizer_class": "X"}, {"pre_tokenizer": BYTES}) == {"tokenizer_class": "X"}
