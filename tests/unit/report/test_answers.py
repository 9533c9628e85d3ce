"""Which words of a result's rows the page shows as the question."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

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


def test_the_picture_that_is_asked_about_is_shown_small_and_a_lost_one_is_left_out(tmp_path):
    Image.new("RGB", (640, 320), "red").save(tmp_path / "red.jpg")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "tiny.png")
    names = ("red.jpg", "tiny.png", "gone.png")
    asked = {"role": "user", "content": "", "images": [str(tmp_path / name) for name in names]}
    (message,) = prompt_of({"prompt": [asked]})
    assert [(one.width, one.height) for one in message.pictures] == [(160, 80), (96, 96)]
    assert all(one.uri.startswith("data:image/png;base64,") for one in message.pictures)
