"""A model's settings in words that transformers 4 and 5 both know.

transformers 4.57 reads no `rope_parameters`, and takes its own defaults without a word: another model than was trained.
What is added stands behind the other keys, which transformers writes in the order of the alphabet; so the bytes that it
wrote can be told again, and a model stays the one that results are named by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.files import read_mapping, write_text

Settings = dict[str, Any]

NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"  # the same, of which only 5 knows the first
NEW_TOKENS, OLD_TOKENS = "extra_special_tokens", "additional_special_tokens"  # 4.57 takes no list under the first
OPENED = {"is_local": True, "local_files_only": True}  # how the one who saved it had opened it
PREFIX = "add_prefix_space"
OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
ROPE = ("rope_theta", "partial_rotary_factor")
ADDED = (*ROPE, *OLD_NAMES["gpt_neox"].values(), "rope_local_base_freq", "rope_scaling", "num_experts")


def write_for_both(folder: Path) -> None:
    """Rewrite the settings of a folder that transformers 5 has saved."""
    if config := read_mapping(folder / artifacts.CONFIG):
        write_text(folder / artifacts.CONFIG, _text(config_for_both(config)))
    if settings := read_mapping(folder / artifacts.TOKENIZER_CONFIG):
        tokenizer = read_mapping(folder / artifacts.TOKENIZER)
        write_text(folder / artifacts.TOKENIZER_CONFIG, _text(tokenizer_for_both(settings, tokenizer)))


def config_for_both(config: Mapping[str, Any]) -> Settings:
    """config.json with its rotary positions and experts as transformers 4 has them, too."""
    words: Settings = {}
    if "num_local_experts" in config:
        words["num_experts"] = config["num_local_experts"]
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        words |= _rope(rope, OLD_NAMES.get(str(config.get("model_type")), {}))
    return {**config, **words}


def _rope(rope: Mapping[str, Any], names: Mapping[str, str]) -> Settings:
    """Gemma 3's are of two sorts of layers."""
    whole, local = rope.get("full_attention", rope), rope.get("sliding_attention")
    words = {names.get(key, key): whole[key] for key in ROPE if key in whole}
    if local:
        words["rope_local_base_freq"] = local["rope_theta"]
    if (form := whole.get("rope_type", "default")) == "longrope":  # of which Phi-3 takes these keys and no other
        words["rope_scaling"] = {"type": form, **{key: whole[key] for key in ("short_factor", "long_factor")}}
    elif form != "default":
        words["rope_scaling"] = {key: value for key, value in whole.items() if key not in ROPE}
    return words


def tokenizer_for_both(settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> Settings:
    """tokenizer_config.json, which stands beside this tokenizer.json."""
    words = {key: value for key, value in settings.items() if key not in OPENED}
    if words.get("tokenizer_class") == NEW_CLASS:
        words["tokenizer_class"] = OLD_CLASS
    if isinstance(words.get(NEW_TOKENS), list):
        words[OLD_TOKENS] = words.pop(NEW_TOKENS)
    splits = tokenizer.get("pre_tokenizer") or {}
    if words.get("tokenizer_class") == OLD_CLASS and PREFIX in splits:
        words.setdefault(PREFIX, splits[PREFIX])  # 4.57 takes it for false, whatever tokenizer.json says
    return words


def identifying(name: str, text: bytes) -> bytes:
    """The bytes of a settings file as transformers 5 wrote them, before `write_for_both`; else as they are."""
    original = ORIGINAL.get(name)
    try:
        settings = json.loads(text) if original else None
    except (ValueError, RecursionError):
        return text
    before = original(settings) if original and isinstance(settings, dict) else None
    return text if before is None else _text(before, ascii_only=name == artifacts.CONFIG, sort=True).encode()


def _config_before(config: Settings) -> Settings | None:
    if not str(config.get("transformers_version")).startswith("5"):
        return None
    added = 0
    while added < len(config) and [*config][-1 - added] in ADDED:
        added += 1
    return dict([*config.items()][:-added]) if added else None


def _tokenizer_before(settings: Settings) -> Settings | None:
    if "backend" not in settings or settings.get("tokenizer_class") != OLD_CLASS:  # 5 has this key, and its own class
        return None
    if [*settings][-1] == PREFIX:
        del settings[PREFIX]
    if OLD_TOKENS in settings:
        settings[NEW_TOKENS] = settings.pop(OLD_TOKENS)
    return {**settings, **OPENED, "tokenizer_class": NEW_CLASS}


ORIGINAL: Mapping[str, Callable[[Settings], Settings | None]] = {
    artifacts.CONFIG: _config_before,
    artifacts.TOKENIZER_CONFIG: _tokenizer_before,
}


def _text(settings: Settings, *, ascii_only: bool = False, sort: bool = False) -> str:
    return json.dumps(settings, indent=2, sort_keys=sort, ensure_ascii=ascii_only) + "\n"
