"""Which words of a result's rows the page shows as the question."""

from __future__ import annotations

from typing import Any

import pytest

from ft.report.answers import prompt_of

ASKED = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "sky?"},
]
REFERENCE = {"role": "assistant", "content": "blue"}


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"prompt": "sky?"}, ["sky?"]),
        ({"question": "sky?"}, ["sky?"]),
        ({"prompt": ASKED}, ["hello", "hi", "sky?"]),
        ({"messages": [*ASKED, REFERENCE]}, ["hello", "hi", "sky?"]),
        ({"messages": "damaged"}, [""]),
    ],
    ids=["prompt", "question", "dialogue", "dialogue with its reference", "damaged"],
)
def test_the_question_of_a_row_is_all_that_stands_before_the_answer(row: dict[str, Any], texts: list[str]):
    assert [message.text for message in prompt_of(row)] == texts
