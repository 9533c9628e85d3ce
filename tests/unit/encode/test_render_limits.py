"""A chat template of any kind ends, in bounded time and memory, with text or with an error that names it."""

from __future__ import annotations

import resource
import signal
from typing import Any

import pytest

import tiny
from ft.encode import render_limits
from ft.encode.chat_template import ChatTemplate
from ft.errors import UserError

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


def chat_template(text: str) -> ChatTemplate:
    tokenizer: Any = tiny.tokenizer()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer)


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that writes": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
}
LARGE = {
    "repetition": "{{ 'x' * 10**10 }}",
    "repetition by a value": "{{ 'x' * (messages | length * 10**10) }}",
    "padding": "{{ ''.ljust(10**10) }}",
    "zeros": "{{ '1'.zfill(10**10) }}",
    "a format": "{{ '%09999999999d' % 1 }}",
    "a list": "{{ [0] * 10**10 }}",
    "center": "{{ 'x' | center(10**10) }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(render_limits, "SECONDS", 0.3)
    with pytest.raises(UserError, match="chat template: it did not end in 0 seconds"):
        chat_template(ENDLESS[name] + TURNS)


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_all_memory_is_refused(name: str):
    with pytest.raises(UserError, match="chat template: it"):
        chat_template(LARGE[name] + TURNS)


def test_a_template_that_writes_very_much_is_refused():
    with pytest.raises(UserError, match="chat template: it writes 5,000,"):
        chat_template("{{ 'x' * 5000000 }}" + TURNS)


def test_the_limits_end_with_the_rendering():
    def state() -> tuple[object, ...]:
        timer = signal.getitimer(signal.ITIMER_VIRTUAL)
        return resource.getrlimit(resource.RLIMIT_AS), timer, signal.getsignal(signal.SIGVTALRM)

    before = state()
    chat_template(TURNS)
    with pytest.raises(UserError):
        chat_template(LARGE["padding"] + TURNS)
    assert state() == before


def test_a_long_dialogue_is_no_fault_of_the_template():
    template = chat_template(TURNS)
    content = "word " * 400_000
    text = template.text([{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}])
    assert content in text
