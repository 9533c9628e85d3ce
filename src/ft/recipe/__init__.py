"""Recipes: YAML in, checked stages out. See `recipe.read`."""

from ft.recipe.batch import accumulation, steps
from ft.recipe.check import Owner, Verdicts, build
from ft.recipe.kind import Kind
from ft.recipe.reader import check_tree, read
from ft.recipe.types import ModelSource, Recipe, Stage

__all__ = [
    "Kind",
    "ModelSource",
    "Owner",
    "Recipe",
    "Stage",
    "Verdicts",
    "accumulation",
    "build",
    "check_tree",
    "read",
    "steps",
]
