"""Where a key belongs that was written at another place, or that another trainer calls otherwise.

One table (`aliases`) and the classes that own the blocks decide it, for messages (`Write it in …`) and for `ft import`
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ft.recipe.aliases import ALIASES, Gone, Renamed
from ft.recipe.check import Owner
from ft.recipe.kind import Kind

TOP = "recipe"
"""The block's name of what stands at the top of a recipe."""

MODEL_BLOCK = "model"
_ABOVE = {
    TOP: Owner("ft.recipe.types:RecipeKeys"),
    MODEL_BLOCK: Owner("ft.recipe.types:ModelSource"),
}


@dataclass(frozen=True)
class Place:
    """A key of a block ("recipe" is the top), and what a value written elsewhere means there."""

    block: str
    key: str
    value: Callable[[Any], Any] = lambda value: value

    def __str__(self) -> str:
        where = {TOP: "at the top of the recipe", MODEL_BLOCK: "in `model:` at the top"}
        return f"Write `{self.key}: …` {where.get(self.block, f'in a stage, in `{self.block}:`')}."

    def within_stage(self, key: str) -> str:
        """For a key that a stage wrote beside its blocks."""
        if self.block in (TOP, MODEL_BLOCK):
            return str(self)
        return f"Write it in `{self.block}:`." if key == self.key else f"Write `{self.key}: …` in `{self.block}:`."


def place_of(key: str, kind: Kind) -> Place | str | None:
    """Where a key of a flat file stands in a recipe with a stage of this kind; a fix where it has no place; None where
    nothing is known of it."""
    owners = {**_ABOVE, **kind.blocks}
    for block, owner in owners.items():
        alias = ALIASES.get(block, {}).get(key)
        if isinstance(alias, Renamed) and owner.has(alias.to):
            return Place(block, alias.to, alias.value)
        if owner.has(key):
            return Place(block, key)
    for block, owner in owners.items():
        alias = ALIASES.get(block, {}).get(key)
        if isinstance(alias, Gone):
            return alias.fix
        if key in owner.reserved:
            return owner.reserved[key]
    return None
