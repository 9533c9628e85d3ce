"""What `ft inspect` says of a model: blocks, shapes and sizes as text, as values, and as the picture of its stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from ft.columns import Column, print_table
from ft.figures.block_stack import BlockStack, Box, Branch
from ft.fit.gpus import GIB
from ft.fit.inspection import Blocks, Inspection, Sublayer, inspect_model
from ft.fit.setting import shape_for
from ft.fit.shapes import BUILT_IN, config_named, shape_of
from ft.models.lineage import base_of
from ft.models.processor import load_config
from ft.recipe import Recipe
from ft.tools.chat import model_at

COLOURS = {"embedding": 1, "positions": 1, "attention": 0, "cross-attention": 4, "feed-forward": 2, "experts": 3}


def inspect_recipe(recipe: Recipe) -> Inspection:
    """The model that the recipe's first stage works with, or makes."""
    return inspect_model(shape_for(recipe, recipe.stages[0], scores=False))


def inspect_path(path: str) -> Inspection:
    """The model in a folder, that which an adapter there stands on, or one named by its id. Raises UserError."""
    folder = model_at(path).folder
    if folder is None:
        return inspect_model(shape_of(*config_named(path)))
    base, adapter = base_of(None, folder)
    return inspect_model(
        shape_of(load_config(base), f"the base of its adapter, {base.path}" if adapter else "its config")
    )


# Text


def show_inspection(name: str, found: Inspection, console: Console) -> None:
    console.print(f"{name}: {found.shape.config.model_type}, from {found.shape.origin}")
    for label, words in _facts(found):
        console.print(f"  {label:<16}{words}")
    columns = (
        *(Column("module"), Column("part", rank=3), Column("weight", right=True)),
        *(Column("each", rank=1, right=True), Column("×", right=True), Column("parameters", right=True)),
        Column("share", rank=2, right=True),
    )
    total = found.shape.parameters
    print_table(console, columns, [[*row, f"{one.parameters / total:.2%}"] for one, row in _module_rows(found)])
    for note in notes(found):
        console.print(note)


def _module_rows(found: Inspection) -> Iterator[tuple[Any, list[str]]]:
    for one in found.modules:
        shape = " × ".join(f"{size:,}" for size in one.shape) + (" + bias" if one.bias else "")
        yield one, [one.name, one.role, shape, f"{one.each:,}", f"{one.count:,}", f"{one.parameters:,}"]


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    shape = found.shape
    work = f"; {found.active:,} work on a token" if found.active < shape.parameters else ""
    yield "parameters", f"{shape.parameters:,}{work}"
    for blocks in found.stacks:
        yield f"{blocks.name} blocks", f"{blocks.count:,}: {_block_words(blocks, found.norm)}"
    yield "width", f"{shape.width:,}"
    yield "attention", attention_words(found)
    yield "feed-forward", feed_forward_words(found)
    yield "positions", positions_words(found)
    yield "window", _window_words(found)
    yield "vocabulary", f"{shape.vocab:,} tokens, {head_words(found)}"
    yield "weights", "; ".join(f"{size_words(size)} in {name}" for name, size in found.weight_bytes.items())
    yield "cache", _cache_words(found)
    yield from _rule_of_thumb(found)


def _block_words(blocks: Blocks, norm: str) -> str:
    return "; ".join(_sublayer_words(one, norm) for one in blocks.sublayers)


def _sublayer_words(one: Sublayer, norm: str) -> str:
    places = {"before": one.norm_before, "behind": one.norm_after, "on the sum": one.norm_of_sum}
    normed = " and ".join(name for name, there in places.items() if there)
    return f"{one.role}{f', {norm} {normed}' if normed else ''}{', in parallel' if one.parallel else ''}"


def attention_words(found: Inspection) -> str:
    shape = found.shape
    if shape.kv_heads == shape.heads:
        kind = "multi-head: each has its own key and value head"
    else:
        kind = "multi-query" if shape.kv_heads == 1 else "grouped-query"
        kind += f": {shape.kv_heads} key/value heads, each read by {shape.heads // shape.kv_heads} query heads"
    return f"{shape.heads} query heads of {shape.head_dim} features; {kind}"


def feed_forward_words(found: Inspection) -> str:
    words = f"{found.shape.ffn:,} features" + (f", {found.activation}" if found.activation else "")
    if found.experts > 1:
        words += f"; {found.experts} experts, {found.shape.experts_each} for each token"
    return words


def positions_words(found: Inspection) -> str:
    kind = found.positions["kind"]
    said = found.shape.origin != BUILT_IN or kind != "rotary"  # theta decides no size, so it is not built in
    numbers = ", ".join(_number_words(key, value) for key, value in found.positions.items() if key != "kind")
    longest = f"; up to {found.shape.positions:,} tokens" if found.shape.positions else ""
    return f"{kind}{f' ({numbers})' if numbers and said else ''}{longest}"


def _number_words(key: str, value: float | str) -> str:
    return f"{key} {value}" if isinstance(value, str) else f"{key} {value:,g}"


def _window_words(found: Inspection) -> str:
    windows = found.shape.windows
    narrow = [window for window in windows if window]
    if not narrow:
        return "none: each token sees all before it" if len(found.stacks) == 1 else "none"
    where = "every layer" if len(narrow) == len(windows) else f"{len(narrow)} of {len(windows)} layers"
    return f"{min(narrow):,} tokens back in {where}"


def head_words(found: Inspection) -> str:
    return "the head has a matrix of its own" if found.shape.head else "the head is the embedding's matrix (tied)"


def _cache_words(found: Inspection) -> str:
    words = f"{size_words(found.cache_bytes(1))} a token in bfloat16"
    if found.shape.positions:
        words += f", {size_words(found.cache_bytes(found.shape.positions))} at {found.shape.positions:,} tokens"
    return words


def _rule_of_thumb(found: Inspection) -> Iterator[tuple[str, str]]:
    """12 L d² for the matrices, where attention is multi-head and the feed-forward four times as wide as the stream."""
    shape = found.shape
    usual = shape.kv_heads == shape.heads and shape.queries == shape.width and shape.ffn == 4 * shape.width
    if usual and not shape.gated and len(found.stacks) == 1:
        rows = int(found.positions.get("rows", 0))
        sizes = 12 * shape.layers * shape.width**2, shape.vocab * shape.width, rows * shape.width
        words = f"12·L·d² + V·d{' + n·d' if rows else ''} = {' + '.join(f'{size:,}' for size in sizes if size)}"
        yield "rule of thumb", f"{words} = {sum(sizes):,} ({sum(sizes) / shape.parameters - 1:+.2%})"


def size_words(size: float) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.2f} {name}"
    return f"{size:,.0f} bytes"


def notes(found: Inspection) -> list[str]:
    """What is often written otherwise, where it concerns this model."""
    shape, lines = found.shape, []
    if found.norm == "RMSNorm":
        lines.append("RMSNorm divides by the root mean square and scales by one weight a feature; it has no shift.")
    if found.positions["kind"] == "rotary":
        words = "Rotary positions turn queries and keys in every layer; nothing is added to embeddings, values stay."
        lines.append(words)
    if found.positions["kind"] == "ALiBi":
        lines.append("ALiBi adds to attention scores, a slope a head times the distance; no tensor holds positions.")
    if shape.kv_heads < shape.heads:
        each = shape.heads // shape.kv_heads
        lines.append(f"{each} query heads share one key/value head, which makes the cache {each} times smaller.")
    if shape.layer.experts:
        lines.append("4-bit loading leaves the experts in bfloat16: they are tensors of three dimensions.")
    if shape.origin == BUILT_IN:
        lines.append("The config could not be fetched: built-in sizes are used, and what decides no size is left out.")
    return lines


# Values


def inspection_values(found: Inspection) -> dict[str, Any]:
    """The same for --json; bytes and counts as integers."""
    shape = found.shape
    return {
        "model_type": shape.config.model_type,
        "origin": shape.origin,
        "parameters": shape.parameters,
        "active_parameters": found.active,
        "parameters_by_part": dict(found.by_role),
        "blocks": [
            {"name": blocks.name, "count": blocks.count, "parts": [vars(one) for one in blocks.sublayers]}
            for blocks in found.stacks
        ],
        "width": shape.width,
        "heads": shape.heads,
        "key_value_heads": shape.kv_heads,
        "head_size": shape.head_dim,
        "feed_forward": shape.ffn,
        "activation": found.activation,
        "norm": found.norm,
        "experts": found.experts,
        "experts_per_token": shape.experts_each,
        "positions": {**found.positions, "trained": shape.positions},
        "windows": list(shape.windows),
        "vocabulary": shape.vocab,
        "tied_embeddings": not shape.head,
        "weight_bytes": found.weight_bytes,
        "cache_bytes_per_token": found.cache_bytes(1),
        "modules": [vars(one) | {"parameters": one.parameters} for one in found.modules],
        "notes": notes(found),
    }


# Picture


def stack_figures(found: Inspection) -> list[BlockStack]:
    """A drawing for each stack of blocks: an encoder-decoder has two."""
    return [_stack_figure(found, blocks) for blocks in found.stacks]


def _stack_figure(found: Inspection, blocks: Blocks) -> BlockStack:
    shape, two = found.shape, len(found.stacks) > 1
    rows = [row for _, row in _module_rows(found) if not two or f"{blocks.name}." in f"{row[0]}."]
    before = [Box("token embedding", (f"{shape.vocab:,} × {shape.width:,}",), COLOURS["embedding"])]
    if found.positions["kind"] == "learned":
        size = f"{found.positions['rows']:,} × {shape.width:,}"
        before.append(Box("+ position embedding", (size,), COLOURS["positions"]))
    after = [Box(found.norm)] if blocks.sublayers and not blocks.sublayers[-1].norm_of_sum else []
    if blocks.name == "decoder":
        tied = "as the embedding" if not shape.head else f"{shape.vocab:,} × {shape.width:,}"
        after.append(Box("linear, softmax", (tied,), COLOURS["embedding"]))
    return BlockStack(
        title=blocks.name if two else f"{found.shape.config.model_type}, {shape.parameters:,} parameters",
        start="token ids" if blocks.name == "decoder" or not two else "token ids of the prompt",
        before=tuple(before),
        count=blocks.count,
        branches=tuple(_branches(found, blocks)),
        after=tuple(after),
        end="probabilities of the next token" if blocks.name == "decoder" else "read by the decoder",
        table_head=("module", "part", "weight", "each", "×", "parameters"),
        table=tuple(tuple(row) for row in rows),
    )


def _branches(found: Inspection, blocks: Blocks) -> Iterator[Branch]:
    columns: list[tuple[Box, ...]] = []
    for place, one in enumerate(blocks.sublayers):
        normed = [Box(found.norm)] if one.norm_before else []
        part = Box(one.role, tuple(_beside(found, one)), COLOURS.get(one.role, 5))
        columns.append((*normed, part, *([Box(found.norm)] if one.norm_after else [])))
        if place + 1 < len(blocks.sublayers) and blocks.sublayers[place + 1].parallel:
            continue  # both read the same, and are added together
        yield Branch(tuple(columns), Box(found.norm) if one.norm_of_sum else None)
        columns = []


def _beside(found: Inspection, one: Sublayer) -> Iterator[str]:
    """At most 21 letters a line: as wide as the picture is beside the boxes."""
    shape = found.shape
    if one.role in ("attention", "cross-attention"):
        yield f"{shape.heads} heads of {shape.head_dim}"
        if shape.kv_heads < shape.heads:
            yield f"{shape.kv_heads} key/value heads"
        if one.role == "cross-attention":
            yield "reads the encoder"
        elif found.positions["kind"] in ("rotary", "ALiBi"):
            yield f"{found.positions['kind']} positions"
        if narrow := [window for window in shape.windows if window]:
            yield f"window {min(narrow):,}"
            if len(narrow) < shape.layers:
                yield f"in {len(narrow)} of {shape.layers}"
    else:
        if found.experts > 1 and one.role == "experts":
            yield f"{shape.experts_each} of {found.experts} a token"
        yield f"{shape.width:,} → {shape.ffn:,}"
        if found.activation:
            yield found.activation
