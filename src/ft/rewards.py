"""Scores computed by code: TRL's reward functions, `(prompts, completions, **columns) -> list[float]`.

Completions are conversational, `[[{"role": "assistant", "content": …}], …]`; each column of the rows comes as a list.
To add one: a function and one line in REWARDS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Completions = Sequence[Sequence[dict[str, Any]]]


def answer(prompts: Sequence[Any], completions: Completions, **columns: Any) -> list[float]:
    """1.0 when the completion holds the row's `answer` as whole words, in any case, else 0.0."""
    return [
        float(_holds(said[-1]["content"], right)) for said, right in zip(completions, columns["answer"], strict=True)
    ]


def says(prompts: Sequence[Any], completions: Completions, **columns: Any) -> list[float]:
    """1.0 when the completion holds the row's `wanted` as whole words, in any case, else 0.0: a manner, not a fact."""
    return answer(prompts, completions, answer=columns["wanted"])


def _holds(text: str, right: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(right)}(?!\w)", text, re.IGNORECASE) is not None


REWARDS: dict[str, Callable[..., list[float]]] = {"answer": answer, "says": says}
