"""The model a stage works with: found up the chain, with its dtype, quantisation and adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ft.errors import fail
from ft.fit.gpus import Gpu
from ft.fit.memory import Moment
from ft.fit.shapes import Adapter, Shape, adapter_of, config_of, shape_of
from ft.fit.sharding import Sharding
from ft.fit.weights import BYTES, model_weights
from ft.models.processor import new_config
from ft.recipe import ModelSource, Recipe, Stage, accumulation

UNKNOWN_ROWS = 2048
"""Tokens of a row where nothing says how long rows are."""


@dataclass(frozen=True)
class Setting:
    """One stage of a recipe, on a GPU, perhaps with others. `longest` is its longest prepared row, where known.

    `padded` is whether rows side by side differ in length, so that a mask keeps padding out: a plan expects it, and the
    rows of a probe are all of one length. transformers drops a mask that hides nothing.
    """

    recipe: Recipe
    stage: Stage
    gpu: Gpu
    sharding: Sharding
    longest: int | None = None
    padded: bool = True

    def block(self, name: str) -> Mapping[str, Any]:
        """As `Stage.complete`: what a library decides is asked of its class."""
        return self.stage.complete(name)

    @cached_property
    def train(self) -> Mapping[str, Any]:
        return self.block("train")

    @property
    def accumulation(self) -> int:
        """Batches a GPU adds up before each step."""
        if self.stage.global_batch:
            rows = int(self.train["per_device_train_batch_size"])
            return accumulation(self.stage.global_batch, rows, self.sharding.processes)
        return int(self.train["gradient_accumulation_steps"])

    @property
    def compute(self) -> str:
        """The dtype of matrix products."""
        return self.stage.compute_dtype


@dataclass(frozen=True)
class ModelInMemory:
    """Weights in memory: `weights` bytes of the base, and of the adapter on it."""

    shape: Shape
    adapter: Adapter | None
    dtype: str
    quantization: Mapping[str, Any] | None

    @property
    def weights(self) -> int:
        return model_weights(self.shape, self.dtype, self.quantization)

    @property
    def adapters(self) -> int:
        """In float32, as trained and as loaded again."""
        return 4 * self.adapter.trained if self.adapter else 0

    def unpacks(self, compute: str) -> int:
        """Bytes a number of a quantised matrix takes while it is used. bitsandbytes unpacks 4-bit ones in the dtype
        they had, copies them to the one they compute in (float32 unless it is written), and autocast to its own."""
        if not self.quantization:
            return 0
        asked = str(self.quantization.get("bnb_4bit_compute_dtype", "float32")).removeprefix("torch.")
        if not self.quantization.get("load_in_4bit") or BYTES.get(asked, 4) == BYTES[compute]:
            return BYTES[compute]
        return BYTES[compute] + 4 + BYTES[compute]


Estimate = tuple[ModelInMemory | None, list[Moment], list[str]]
"""Of a stage: its model, the moments of its work, and notes for people."""


def shape_for(recipe: Recipe, stage: Stage, scores: bool) -> Shape:
    """The shape of the model at the bottom of the stage's chain: the recipe's, or one made from nothing."""
    model = recipe.model_of(stage)
    while stage.init:
        stage = recipe.stage(stage.init)
    if stage.kind.init:
        assert model is not None
        return shape_of(*config_of(model), scores)
    words = stage.blocks.get("tokenizer", {}).get("vocab_size")
    config = new_config(stage.blocks["architecture"], **({"vocab_size": words} if words else {}))
    return shape_of(config, "the recipe's architecture", scores)


def model_to_train(setting: Setting) -> ModelInMemory:
    """The model a training stage trains: what is frozen as it computes, what is trained in float32, unless
    `model: {dtype: …}` says otherwise."""
    stage, recipe = setting.stage, setting.recipe
    scores = "reward_model" in stage.kind.leaves
    shape = shape_for(recipe, stage, scores)
    lora = stage.blocks.get("lora")
    adapter = adapter_of(shape, lora, stage.where, scores) if lora is not None else None
    model = recipe.model_of(stage)
    asked = model.dtype if model else None
    dtype = asked or ("float32" if adapter is None else setting.compute)
    return ModelInMemory(shape, adapter, dtype, stage.blocks.get("quantization"))


def finished_model(setting: Setting, name: str | None) -> ModelInMemory:
    """A finished stage's model as it is used: on its own base, in the dtype it computes in; None: the recipe's."""
    recipe = setting.recipe
    stage = recipe.stage(name) if name else None
    model = recipe.model_of(stage or setting.stage)
    scores = stage is not None and "reward_model" in stage.kind.leaves
    shape = shape_for(recipe, stage, scores) if stage else _recipe_shape(model)
    lora, quantization = None, setting.stage.blocks.get("quantization")
    while stage and "lora" not in stage.blocks and not stage.kind.trains and stage.init:
        stage = recipe.stage(stage.init)
    if stage and "lora" in stage.blocks:
        lora = adapter_of(shape, stage.blocks["lora"], stage.where, scores)
        quantization = quantization or stage.blocks.get("quantization")
    asked = model.dtype if model else None
    return ModelInMemory(shape, lora, asked or "bfloat16", quantization)


def model_as_loaded(setting: Setting, source: ModelSource) -> ModelInMemory:
    """A model that no stage of the recipe has made."""
    return ModelInMemory(
        _recipe_shape(source), None, source.dtype or "bfloat16", setting.stage.blocks.get("quantization")
    )


def _recipe_shape(model: ModelSource | None) -> Shape:
    if model is None:
        raise fail("model", "there is no model to plan for", "Write `model: path-or-hub-id`.")
    return shape_of(*config_of(model))


def row_length(setting: Setting) -> tuple[int, str]:
    """(tokens of the longest row a stage that trains nothing meets, what that was taken from)."""
    stage: Stage | None = setting.stage
    while stage:
        length = stage.blocks.get("train", {}).get("max_length")
        if length:
            return int(length), f"prompts as long as the rows of '{stage.name}': {int(length):,} tokens"
        stage = setting.recipe.stage(stage.init) if stage.init else None
    return UNKNOWN_ROWS, f"prompts of {UNKNOWN_ROWS:,} tokens, since nothing says how long they are"


def bytes_of(dtype: str) -> int:
    return BYTES[dtype]
