"""What is no chat template is refused where the recipe names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ft.recipe import Recipe
from wording import Like

STAGES = "model: hub/name\nstages:\n  - kind: sft\n    data: [rows.jsonl]\n    train: {max_length: 64}\n"
FAULTS = {
    "not closed": "{{ x",
    "an unknown tag": "{% unknown %}",
    "a loop without end": "{% for m in messages %}{{ m }}",
    "another file": '{% include "/etc/passwd" %}',
    "an import": '{% import "a" as a %}{{ a }}',
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_text_that_is_no_template_is_refused_by_its_line(messages_of: Callable[..., str], name: str):
    assert messages_of(f"chat_template: '{FAULTS[name]}'\n{STAGES}") == Like("x.yaml:1: chat_template … template …")


def test_a_file_that_is_no_template_is_refused(messages_of: Callable[..., str], folder: Path):
    (folder / "t.jinja").write_text("line\n{% endfor %}", encoding="utf-8")
    assert messages_of(f"chat_template: t.jinja\n{STAGES}") == Like("x.yaml:1: … line 2 of the template: …")


def test_the_words_that_transformers_adds_are_known(recipe: Callable[..., Recipe]):
    text = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert recipe(f"chat_template: '{text}'\n{STAGES}").chat_template == text
