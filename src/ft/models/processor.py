"""A model's config, its family, and what makes its rows: the tokenizer with its chat template, and the encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft import artifacts
from ft.encode.chat_template import template
from ft.encode.encoder import Encoder
from ft.encode.pairs import PairOptions
from ft.encode.prepare import RowOptions
from ft.errors import fail
from ft.families import CAUSAL, Family, family_of
from ft.imports import uncollected
from ft.models.lineage import base_of
from ft.recipe import ModelSource


def load_config(source: ModelSource) -> Any:
    """The model's config, a PretrainedConfig of its architecture."""
    with uncollected():
        from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    except OSError as error:
        text = str(error).splitlines()[0]
        raise fail(source.path, f"the model cannot be loaded: {text}", "Check the name and HF_TOKEN.") from error


def family_at(model: ModelSource | None, init: Path | None) -> Family:
    """The family of the model in the folder `init`, or of `model` where that is None."""
    base, _ = base_of(model, init)
    if base.folder is not None and not (base.folder / artifacts.CONFIG).exists():
        return CAUSAL  # a tokenizer alone, which makes text
    return family_of(load_config(base), base.path)


def tokenizer_of(model: ModelSource | None, init: Path | None, chat_template: str | None = None) -> Any:
    """The tokenizer with the template that trains and chats: that of the folder `init`, or of `model` where that is
    None. The recipe's template wins over the one it carries. Without a pad token EOS pads (labels are by position)."""
    if init is None and model is None:
        raise fail("model", "there is no tokenizer", "Write `model: path-or-hub-id`.")
    source = model if init is None else ModelSource(str(init))
    assert source is not None
    try:
        tokenizer: Any = family_at(model, init).load_processor(source.path, source.revision)
    except (OSError, ValueError) as error:
        text = str(error).splitlines()[0]
        raise fail(source.path, f"the tokenizer cannot be loaded: {text}", "Check the name and HF_TOKEN.") from error
    if chat_template:
        tokenizer.chat_template = template(chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encoder_of(
    model: ModelSource | None,
    init: Path | None,
    chat_template: str | None,
    options: RowOptions | PairOptions,
    max_length: int | None,
) -> Encoder:
    """What encodes a stage's rows for the model it starts from, as its `rows:` block says."""
    return family_at(model, init).encoder(tokenizer_of(model, init, chat_template), options, max_length)
