"""What the model at hand cannot do, asked of its config before anything is trained: positions, vocabulary, adapters.

`config` is config.json as it is written, when a recipe is planned, or the whole PretrainedConfig as a mapping, with the
defaults of its class.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import Problem, UserError, fail
from ft.files import read_mapping
from ft.recipe.check import suggest

log = logging.getLogger(__name__)

HEAD = "lm_head"
ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the output

LEARNT = ("opt", "gpt_neo", "biogpt")
"""Values of model_type with a learnt vector for each position of max_position_embeddings."""


def lora_problems(where: str, lora: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    """What of a `lora:` block cannot be trained on this model. TRL multiplies hidden states by the output embedding's
    matrix itself, so nothing that PEFT wraps around it takes part."""
    if HEAD in _matched(lora.get("target_modules"), [HEAD]):
        what = f"an adapter on {HEAD} is not trained: the loss reads its matrix directly"
        yield Problem(where, what, f"Take it out of target_modules; `modules_to_save: [{HEAD}]` trains it whole.")
    if lora.get("trainable_token_indices") and config.get("tie_word_embeddings"):
        what = "trainable_token_indices, and the model's embeddings are its output too, which the loss reads directly"
        yield Problem(where, what, "Leave the key out, or name a model whose embeddings are not tied.")


def target_problems(where: str, targets: Any, modules: Collection[str]) -> Iterator[Problem]:
    """Each name in target_modules that is none of the model's modules. PEFT passes over it without a word where another
    one of the list is."""
    names = [targets] if isinstance(targets, str) else targets or []
    for name in names:
        if name != ALL_LINEAR and not _matched(targets if isinstance(targets, str) else [name], modules):
            last = sorted({module.rpartition(".")[2] for module in modules if not module[-1].isdigit()})
            yield Problem(where, f"target_modules: the model has no module '{name}'", suggest(name, last))


def _matched(targets: Any, modules: Collection[str]) -> list[str]:
    """The modules that target_modules means: a pattern for whole names, or a list of their ends."""
    if isinstance(targets, str):
        return [module for module in modules if targets != ALL_LINEAR and re.fullmatch(targets, module)]
    return [module for module in modules if any(f".{module}".endswith(f".{name}") for name in targets or ())]


def positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a row may have by the config; None: it does not say. T5's distances have no last one, whatever length
    its config remembers from training."""
    if "relative_attention_num_buckets" in config:
        return None
    value = config.get("max_position_embeddings", config.get("n_positions"))
    rope = config.get("rope_parameters") or {}
    if isinstance(value, int) and rope.get("rope_type") == "dynamic":
        return int(value * rope.get("factor", 1))  # its config names the length it was trained on
    return value if isinstance(value, int) else None


def learnt_positions(config: Mapping[str, Any]) -> int | None:
    """How many of its positions a model has a vector of its own for, and none behind these; None: it computes them.
    `n_positions` is GPT-2's word."""
    return positions(config) if "n_positions" in config or config.get("model_type") in LEARNT else None


def position_problems(where: str, max_length: int, config: Mapping[str, Any]) -> Iterator[Problem]:
    """A row may not be longer than the positions that a model has learnt."""
    if (limit := learnt_positions(config)) and max_length > limit:
        what = f"train.max_length is {max_length:,}, and the model has {limit:,} positions"
        yield Problem(where, what, f"Write max_length: {limit}.")


def position_notices(where: str, max_length: int, config: Mapping[str, Any]) -> Iterator[str]:
    """Rotary positions go on behind those that were trained, unlike what the model knows, unless they are scaled."""
    limit, rope = positions(config), config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default" or "full_attention" in rope
    if limit and max_length > limit and not scaled and not [*position_problems(where, max_length, config)]:
        what = f"train.max_length is {max_length:,}, and the model knows {limit:,} positions (max_position_embeddings)"
        yield f"{where}: {what}. What stands behind them may be learnt badly."


def check_prepared_rows(model: Any, rows: Path, where: str) -> None:
    """Raise UserError where prepared rows hold ids without an embedding or are longer than learnt positions; warn of
    rows longer than the positions that a rotary embedding was trained on."""
    rows_of_embedding = model.get_input_embeddings().weight.shape[0]
    largest = max((side.get("largest_id", 0) for side in _sides(rows)), default=0)
    if largest >= rows_of_embedding:
        raise _unknown_id(where, largest, rows_of_embedding)
    config = model.config.get_text_config(decoder=True).to_dict()
    longest = longest_row(rows)
    limit = positions(config)
    if limit is None or longest <= limit:
        return
    rope = config.get("rope_parameters") or {}
    words = f"a row has {longest:,} tokens, and the model {limit:,} positions"
    if not rope:
        raise fail(where, words, f"Write `train: {{max_length: {limit}}}`.")
    if rope.get("rope_type", "default") == "default":
        log.warning("%s: %s (max_position_embeddings); what stands behind them may be learnt badly", where, words)


def longest_row(rows: Path) -> int:
    """Tokens of the longest of these prepared rows."""
    return max((side["lengths"]["quantiles"].get("longest", 0) for side in _sides(rows)), default=0)


def _sides(rows: Path) -> list[Mapping[str, Any]]:
    stats = read_mapping(rows / artifacts.STATS)
    return [stats[side] for side in ("train", "eval") if stats.get(side)]


def refuse_unknown_inputs(model: Any, where: str) -> None:
    """Let the model raise UserError for a token that it has no embedding for, and for a position that it has not
    learnt, whoever gives it: on a GPU nothing else would say which. A tokenizer may have more tokens than the model,
    which text never holds (Gemma 3's for images)."""
    from torch.nn import Embedding

    def check_ids(embedding: Any, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].numel() and (largest := int(inputs[0].max())) >= embedding.num_embeddings:
            raise _unknown_id(where, largest, embedding.num_embeddings)

    def check_positions(decoder: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if limit and (length := _longest(inputs, options)) > limit:
            raise fail(where, f"a row has {length:,} tokens, and the model {limit:,} positions", "Shorten it.")

    weight = model.get_input_embeddings().weight
    for module in model.modules():  # encoder and decoder have modules of their own around one matrix
        if isinstance(module, Embedding) and module.weight is weight:
            module.register_forward_pre_hook(check_ids)
    limit = learnt_positions(model.config.get_text_config(decoder=True).to_dict())
    if limit:  # at the decoder: PEFT calls a whole model's `forward` past its hooks
        model.base_model.register_forward_pre_hook(check_positions, with_kwargs=True)


def _longest(inputs: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Positions that a forward pass reads."""
    if (given := options.get("position_ids")) is not None:
        return int(given.max()) + 1
    rows = next(rows for rows in (*inputs, options.get("input_ids"), options.get("inputs_embeds")) if rows is not None)
    cache = options.get("past_key_values")
    return int(rows.shape[1]) + (cache.get_seq_length() if cache is not None else 0)


def _unknown_id(where: str, largest: int, embeddings: int) -> UserError:
    what = f"rows hold the token {largest}, and the model has embeddings of {embeddings:,}"
    return fail(where, what, "Its tokenizer is of another model: take both from one place.")
