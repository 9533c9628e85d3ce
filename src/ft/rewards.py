"""Scores computed by code: TRL's reward functions, `(prompts, completions, **columns) -> list[float]`.

Completions are conversational, `[[{"role": "assistant", "content": …}], …]`; each column of the rows comes as a list.
To add one: a function and one line in REWARDS. A column it names as a parameter must stand in every row.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ft.data.formats.messages import BadRow
from ft.errors import fail
from ft.gatt.checkers import CHECKERS

Completions = Sequence[Sequence[dict[str, Any]]]
Prompts = Sequence[Any]


def answer(
    prompts: Prompts, completions: Completions, answer: Sequence[str | Sequence[str]], **columns: Any
) -> list[float]:
    """1.0 when the completion holds the row's `answer`, or one of several, as whole words, in any case, else 0.0."""
    return [
        float(holds_words(completion[-1]["content"], right))
        for completion, right in zip(completions, answer, strict=True)
    ]


def says(prompts: Prompts, completions: Completions, wanted: Sequence[str], **columns: Any) -> list[float]:
    """1.0 when the completion holds the row's `wanted` as whole words, in any case, else 0.0: a manner, not a fact."""
    return [
        float(holds_words(completion[-1]["content"], manner))
        for completion, manner in zip(completions, wanted, strict=True)
    ]


def obeys(prompts: Prompts, completions: Completions, checks: Sequence[Any], **columns: Any) -> list[float]:
    """The share of the row's `checks` that the completion passes, 1.0 where there are none.

    A check is written as in an instruction bank: {"check": "ends", "value": "amen"}, with "values" where it reads them.
    """
    return [
        _share_passed(completion[-1]["content"], listed) for completion, listed in zip(completions, checks, strict=True)
    ]


def quality(
    prompts: Prompts,
    completions: Completions,
    answer: Sequence[str | Sequence[str]],
    checks: Sequence[Any],
    **columns: Any,
) -> list[float]:
    """Half for the right `answer`, half for the share of `checks` passed: 1.0 is right and obeys every instruction."""
    obeyed = obeys(prompts, completions, checks)
    right = [holds_words(completion[-1]["content"], one) for completion, one in zip(completions, answer, strict=True)]
    return [(fact + manner) / 2 for fact, manner in zip(right, obeyed, strict=True)]


def holds_words(text: str, right: str | int | Sequence[str | int]) -> bool:
    """Whether the text holds it, or one of several, as whole words, in any case."""
    texts = right if isinstance(right, Sequence) and not isinstance(right, str) else [right]
    return any(re.search(rf"(?<!\w){re.escape(str(one))}(?!\w)", text, re.IGNORECASE) for one in texts)


def _share_passed(text: str, checks: Sequence[Mapping[str, Any]]) -> float:
    passed = [_passes(text, check) for check in checks]
    return sum(passed) / len(passed) if passed else 1.0


def _passes(text: str, entry: Mapping[str, Any]) -> bool:
    check = entry.get("check")
    name, options = next(iter(check.items()), ("", {})) if isinstance(check, Mapping) else (check, {})
    if name not in CHECKERS:
        raise fail("column checks", f"{entry} names no checker", f"There are: {', '.join(CHECKERS)}.")
    return CHECKERS[name](**options)(text, entry.get("value", ""), entry.get("values", ()))


REWARDS: dict[str, Callable[..., list[float]]] = {
    "answer": answer,
    "says": says,
    "obeys": obeys,
    "quality": quality,
}


TEXT_COLUMNS = ("answer", "wanted")


def check_columns(names: Iterable[str], columns: Mapping[str, Any]) -> None:
    """Raises BadRow where a prompt's row lacks what one of these rewards reads, or holds what it cannot read."""
    for name in names:
        for column in columns_of(name):
            value = columns.get(column)
            if value is None:
                raise BadRow(f"the reward '{name}' reads the column '{column}'", "Give the row one.")
            if column in TEXT_COLUMNS and not _is_text(value):
                what = f"the reward '{name}' cannot look for what the column '{column}' holds, {value!r}"
                raise BadRow(what, "Write a text that is not empty, or several.")


def _is_text(value: Any) -> bool:
    """Whether an answer can be looked for: every text holds an empty one, and 0.5 may be written in many ways."""
    if isinstance(value, list):
        return bool(value) and all(_is_text(one) for one in value)
    return type(value) is int or (isinstance(value, str) and bool(value.strip()))


def columns_of(name: str) -> list[str]:
    """The columns a reward reads: its named parameters behind prompts and completions."""
    parameters = list(inspect.signature(REWARDS[name]).parameters.values())[2:]
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
