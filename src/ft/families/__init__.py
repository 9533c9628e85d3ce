"""What differs between families of models, found from a model's config.json and written in no recipe.

To add one: a module here with its Family, and an entry in FAMILIES. No module elsewhere names an auto class of
transformers or a task type of PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.errors import fail
from ft.families.base import Family
from ft.families.causal import CAUSAL
from ft.families.image_text import IMAGE_TEXT, IMAGE_TEXT_SEQ2SEQ
from ft.families.prefix_lm import PREFIX_LM
from ft.families.seq2seq import SEQ2SEQ

__all__ = ["CAUSAL", "FAMILIES", "PREFIX_LM", "SEQ2SEQ", "Family", "family_of", "family_of_values"]

FAMILIES: tuple[Family, ...] = (IMAGE_TEXT, IMAGE_TEXT_SEQ2SEQ, SEQ2SEQ, PREFIX_LM, CAUSAL)


def family_of(config: Any, where: str) -> Family:
    """The family of a model by its config (a PretrainedConfig). Raises UserError where there is none."""
    for family in FAMILIES:
        if family.takes(config):
            return family
    kinds = ", ".join(family.about for family in FAMILIES)
    raise fail(where, f"ft knows no models of type '{config.model_type}'", f"It trains {kinds}.")


def family_of_values(config: Mapping[str, Any]) -> Family:
    """The same by config.json as it is written ({}: nothing is known of it yet), for plans."""
    return next((family for family in FAMILIES if family.takes_values(config)), CAUSAL)
