"""What differs between families of models, found from a model's config.json and written in no recipe.

To add one: a module here with its Family, and an entry in FAMILIES. No module elsewhere names an auto class of
transformers or a task type of PEFT.
"""

from __future__ import annotations

from typing import Any

from ft.errors import fail
from ft.families.base import Family
from ft.families.causal import CAUSAL

__all__ = ["CAUSAL", "FAMILIES", "Family", "family_of"]

FAMILIES = (CAUSAL,)


def family_of(config: Any, where: str) -> Family:
    """The family of a model by its config (a PretrainedConfig). Raises UserError where there is none."""
    for family in FAMILIES:
        if family.takes(config):
            return family
    kinds = ", ".join(family.about for family in FAMILIES)
    raise fail(where, f"ft knows no models of type '{config.model_type}'", f"It trains {kinds}.")
