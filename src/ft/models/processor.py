"""A model's config, its family, and what makes its rows: the tokenizer with its chat template, and the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.encode.chat_template import template
from ft.encode.encoder import Encoder
from ft.encode.pairs import PairOptions
from ft.encode.prepare import RowOptions
from ft.errors import UserError, fail
from ft.families import CAUSAL, Family, family_of
from ft.hub import hub_is_there
from ft.imports import uncollected
from ft.models.folder import check_model_folder
from ft.models.lineage import base_of
from ft.recipe import ModelSource


def load_config(source: ModelSource) -> Any:
    """The model's config, a PretrainedConfig of its architecture."""
    with uncollected():
        from transformers import AutoConfig

    with library_errors(source, "the config"):
        config = AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)
    if source.attention:
        config.attention_pattern = source.attention
    if source.rope:
        scale_positions(config.get_text_config(decoder=True), source.rope, source.path)
    return config


def scale_positions(config: Any, rope: Mapping[str, Any], where: str) -> None:
    """Put a scaling of rotary positions into a config. Raises UserError where it has no one rotary embedding.

    The dynamic one reads the trained length in `max_position_embeddings`, and scales from there on by itself.
    """
    own = getattr(config, "rope_parameters", None)
    if not own or "rope_theta" not in own:
        what = "model.rope scales rotary positions, and the model has none, or several"
        raise fail(where, what, "Take `rope:` out: learnt positions end, and ALiBi goes on by itself.")
    trained = config.max_position_embeddings
    if rope["rope_type"] != "dynamic":
        config.max_position_embeddings = int(trained * rope["factor"])
    if rope["rope_type"] != "default":
        config.rope_parameters = {**own, **rope, "original_max_position_embeddings": trained}


def new_config(architecture: Mapping[str, Any], **more: Any) -> Any:
    """The config of a model made from nothing, as an `architecture:` block describes it: Llama where it names none."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**{"model_type": "llama", **architecture, **more})


@contextmanager
def library_errors(source: ModelSource, what: str) -> Iterator[None]:
    """Whatever a library raises of the files it reads, as the user's to mend: each has errors of its own kind, and a
    folder from elsewhere may hold anything."""
    import torch

    if source.folder is not None:
        check_model_folder(source.folder)
        fix = "Download or copy it again."
    elif hub_is_there():
        fix = "Check the name, accept its licence on the Hub, and set HF_TOKEN."
    else:
        fix = "The Hub does not answer: download it once while it does, or name a local folder."
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join([lines[0], *(line.strip() for line in lines[1:3] if lines[0].endswith(":"))])
        raise fail(source.path, f"{what} cannot be loaded: {reason}", fix) from error


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
    family = family_at(model, init)
    with library_errors(source, "the tokenizer"):
        tokenizer: Any = family.load_processor(source.path, source.revision)
    if chat_template:
        tokenizer.chat_template = template(chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        what = "the tokenizer names neither an end token nor one that pads"
        raise fail(source.path, what, f"Write its eos_token in {artifacts.TOKENIZER_CONFIG}.")
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
