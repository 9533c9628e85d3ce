"""How many tokens fit: a model's positions are shared by a prompt and its completion."""

from __future__ import annotations

from typing import Any


def positions_of(model: Any) -> int | None:
    """Tokens a model can see, prompt and completion together; None where its config does not say."""
    config = model.config.get_text_config(decoder=True)
    positions: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if positions and rope.get("rope_type") == "dynamic":
        return int(positions * rope["factor"])
    return positions


def prompt_budget(positions: int | None, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have, so that `max_new_tokens` fit behind it; None: any number. Below 1 none fits."""
    return None if positions is None else positions - max_new_tokens


def completion_budget(positions: int | None, prompt_tokens: int, max_new_tokens: int) -> int:
    """Tokens that a completion may have behind a prompt; below 1 where the prompt leaves no room."""
    return max_new_tokens if positions is None else min(max_new_tokens, positions - prompt_tokens)
