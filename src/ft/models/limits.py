"""What the model at hand cannot do, asked of its config before anything is trained: positions, vocabulary, adapters.

`config` is config.json as it is written, when a recipe is planned, or the whole PretrainedConfig as a mapping, with the
defaults of its class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import Problem, fail
from ft.files import read_mapping

log = logging.getLogger(__name__)

NEED_DATA = ("corda", "eva", "lora_ga")
"""Values of init_lora_weights for which PEFT must first be shown activations or gradients: without them corda fails,
and eva is a plain initialisation."""


def lora_problems(where: str, lora: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    """What of a `lora:` block cannot be trained on this model. TRL multiplies hidden states by the output embedding's
    matrix itself, so nothing that PEFT wraps around it takes part."""
    init, targets = lora.get("init_lora_weights"), lora.get("target_modules")
    if init in NEED_DATA:
        what = f"init_lora_weights: {init} needs data to begin with, which ft does not show it"
        yield Problem(where, what, "Write pissa, olora, gaussian or true.")
    if isinstance(targets, list) and "lm_head" in targets:
        what = "an adapter on lm_head is not trained: the loss reads its matrix directly"
        yield Problem(where, what, "Take it out of target_modules; `modules_to_save: [lm_head]` trains it whole.")
    if lora.get("trainable_token_indices") and config.get("tie_word_embeddings"):
        what = "trainable_token_indices, and the model's embeddings are its output too, which the loss reads directly"
        yield Problem(where, what, "Leave the key out, or name a model whose embeddings are not tied.")


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a row may have by the config; None: it does not say."""
    value = config.get("max_position_embeddings", config.get("n_positions"))
    return value if isinstance(value, int) else None


def position_problems(where: str, max_length: int, config: Mapping[str, Any]) -> Iterator[Problem]:
    """A model that has learnt a vector for each position has none behind the last. `n_positions` is GPT-2's."""
    if "n_positions" in config and max_length > (limit := positions(config) or max_length):
        what = f"train.max_length is {max_length:,}, and the model has {limit:,} positions"
        yield Problem(where, what, f"Write max_length: {limit}.")


def check_prepared_rows(model: Any, rows: Path, where: str) -> None:
    """Raise UserError where prepared rows hold ids without an embedding or are longer than learnt positions; warn of
    rows longer than the positions that a rotary embedding was trained on."""
    stats = read_mapping(rows / artifacts.STATS)
    sides = [stats[side] for side in ("train", "eval") if stats.get(side)]
    rows_of_embedding = model.get_input_embeddings().weight.shape[0]
    largest = max((side.get("largest_id", 0) for side in sides), default=0)
    if largest >= rows_of_embedding:
        what = f"rows hold the token {largest}, and the model has embeddings of {rows_of_embedding:,}"
        raise fail(where, what, "Its tokenizer is of another model: take both from one place.")
    config = model.config.get_text_config(decoder=True).to_dict()
    longest = max((side["lengths"]["quantiles"].get("longest", 0) for side in sides), default=0)
    limit = positions(config)
    if limit is None or longest <= limit:
        return
    rope = config.get("rope_parameters") or {}
    words = f"a row has {longest:,} tokens, and the model {limit:,} positions"
    if not rope:
        raise fail(where, words, f"Write `train: {{max_length: {limit}}}`.")
    if rope.get("rope_type", "default") == "default":
        log.warning("%s: %s (max_position_embeddings); what stands behind them may be learnt badly", where, words)
