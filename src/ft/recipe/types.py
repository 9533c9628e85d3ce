"""A recipe as checked values: the model to start from, and the stages in the order they run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ft.hub import is_folder, local_path
from ft.recipe.engine import LOCAL, EngineOptions
from ft.recipe.find import recipe_argument
from ft.recipe.kind import Kind
from ft.recipe.precision import Dtype, dtype_of_stage
from ft.recipe.rounds import Rounds

ROPE_TYPES = ("linear", "dynamic", "yarn", "default")
"""arXiv:2306.15595; its dynamic NTK form; arXiv:2309.00071; none, to compare with: positions go on as they are."""
FOLDER_NAME = r"[A-Za-z0-9][\w-]{0,199}"  # a fingerprint stands behind it, and a name has 255 bytes
STAGE_KEYS = ("kind", "name", "model", "init", "inputs", "data", "eval_data", "require", "skip", "global_batch")


def reference(value: object) -> str | None:
    """The stage that "$name" points to; None for anything else."""
    return value[1:] if isinstance(value, str) and value.startswith("$") else None


@dataclass(frozen=True)
class ModelSource:
    """Which weights to start from, and how they are held in memory.

    path                 a folder, or a Hub id such as meta-llama/Llama-2-7b-hf
    revision             a Hub commit, tag or branch
    dtype                float32, bfloat16, float16; None: what is trained in float32, what is frozen as it computes
    attn_implementation  eager, sdpa, flash_attention_2, …; None: the library's choice
    attention            prefix_lm: a decoder's prompt sees itself both ways; None: as the config says, or causal
    rope                 scaling of rotary positions, by transformers' names: {rope_type: linear, factor: 2}; the
                         context becomes `factor` times as long. None: as the config says
    """

    path: str
    revision: str | None = None
    dtype: Dtype | None = None
    attn_implementation: str | None = None
    attention: Literal["prefix_lm"] | None = None
    rope: dict[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Raises ValueError for a scaling that is none of ROPE_TYPES."""
        if self.rope is None:
            return
        kind, factor = self.rope.get("rope_type"), self.rope.get("factor")
        if kind not in ROPE_TYPES:
            raise ValueError(f"rope.rope_type is {kind!r}; there are: {', '.join(ROPE_TYPES)}")
        if not isinstance(factor, (int, float)) or factor <= 1:
            raise ValueError(f"rope.factor is {factor!r}; it says how many times as long the context becomes, above 1")

    @property
    def folder(self) -> Path | None:
        """Where the weights are on this machine; None: the Hub has them."""
        path = local_path(self.path)
        return path if path and is_folder(path) else None


@dataclass(frozen=True)
class Stage:
    """One stage as written: checked values, and where they stand for later complaints."""

    name: str
    kind_name: str
    kind: Kind
    where: str
    model: ModelSource | None = None  # that it starts from instead of the recipe's: a teacher, a student
    init: str | None = None  # name of the stage it starts from; None: a model
    inputs: Mapping[str, str] = field(default_factory=dict)  # input → stage name
    data: tuple[Mapping[str, Any], ...] = ()
    eval_data: tuple[Mapping[str, Any], ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    require: Mapping[str, float] = field(default_factory=dict)
    global_batch: int | None = None  # rows per optimizer step over all processes; None: the train block says them

    def complete(self, block: str) -> Mapping[str, Any]:
        """A block's values, where none is written its class's own defaults; {} for a kind without such a block."""
        owner = self.kind.blocks.get(block)
        return {**owner.schema().defaults, **self.blocks.get(block, {})} if owner else {}

    @property
    def compute_dtype(self) -> Dtype:
        """What it computes in on a GPU."""
        return dtype_of_stage(self.kind, self.blocks)

    @property
    def parents(self) -> list[str]:
        """Names of the stages whose results this one reads, each once."""
        from_data = [reference(s["path"]) for s in (*self.data, *self.eval_data)]
        return list(dict.fromkeys(n for n in (self.init, *self.inputs.values(), *from_data) if n))


@dataclass(frozen=True)
class Recipe:
    name: str
    file: Path
    model: ModelSource | None
    chat_template: str | None
    seed: int
    stages: tuple[Stage, ...]
    notices: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # stages of a parent that `skip: true` leaves out
    engine: EngineOptions = LOCAL  # where inference is computed, which decides no result
    rounds: tuple[Rounds, ...] = ()  # each a block of stages that were unrolled

    @property
    def argument(self) -> str:
        """What a user types for it: its name where it comes with ft, else its path."""
        return recipe_argument(self.file)

    def stage(self, name: str) -> Stage:
        return next(s for s in self.stages if s.name == name)

    def model_of(self, stage: Stage) -> ModelSource | None:
        """The model that the stage's chain starts from: one that a stage names itself, or the recipe's."""
        while stage.init:
            stage = self.stage(stage.init)
        return stage.model or self.model


@dataclass(frozen=True)
class RecipeKeys:
    """What stands at the top of a recipe's file."""

    stages: list[Any]
    model: str | dict[str, Any] | None = None
    chat_template: str | None = None
    seed: int = 1
    name: str | None = None
    engine: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}")
        if self.name and not re.fullmatch(FOLDER_NAME, self.name):
            raise ValueError(f"name '{self.name}' cannot name a folder. Use letters, digits, - and _")
