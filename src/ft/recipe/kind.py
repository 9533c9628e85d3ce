"""The contract of a stage kind: which blocks it reads, what it needs, what it leaves.

A kind is data, not a class to inherit from; its work is one function, named by path so that planning imports no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Literal

from ft.recipe.check import Owner

LEFT = {"model": "a model", "reward": "a reward model", "rows": "rows", "metrics": "metrics"}
"""What `leaves` is called in messages."""


@dataclass(frozen=True)
class Kind:
    """What a recipe may write under `kind: NAME`, and the function that makes the stage.

    blocks    block name → the class that owns its keys
    make      "module:function", called with a Job in the stage's own process
    leaves    "model" (a folder `from_pretrained` opens, which answers), "reward" (one that scores), "rows" (rows.jsonl)
              or "metrics" (metrics.json)
    also_rows whether it leaves rows.jsonl beside what it leaves
    about     one line for people
    inputs    names it reads under `inputs:`
    rewards   those of its inputs that are reward models; "init" among them: it starts from one
    pleases   those of its inputs that are reward models it optimises against
    data      does the stage read `data:`: "required", "optional" or "none"
    rows      whether the rows it trains on are prepared (rendered, tokenised) before it starts
    holds_out whether it reads `eval_data:`; kinds whose rows are prepared do
    starts    does it start from a model (the recipe's, or `init:`)
    required  blocks, or keys "block.key", that must be written
    cosmetic  patterns "block.key" that do not change what the stage leaves
    """

    blocks: Mapping[str, Owner]
    make: str
    leaves: Literal["model", "reward", "rows", "metrics"]
    about: str
    inputs: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    pleases: tuple[str, ...] = ()
    also_rows: bool = False
    data: Literal["required", "optional", "none"] = "required"
    rows: bool = True
    holds_out: bool = False
    starts: bool = True
    required: tuple[str, ...] = ()
    cosmetic: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether the stage trains, and so can use several processes."""
        return "train" in self.blocks

    def function(self) -> Callable[[Any], dict[str, Any]]:
        module, name = self.make.split(":")
        made: Callable[[Any], dict[str, Any]] = getattr(importlib.import_module(module), name)
        return made

    def wants(self, name: str) -> str:
        """What the stage named under `init` or an input must leave."""
        return "reward" if name in self.rewards else "model"

    def decides(self, block: str, key: str) -> bool:
        """Does `block.key` change what the stage leaves?"""
        return not any(fnmatch(f"{block}.{key}", pattern) for pattern in self.cosmetic)
