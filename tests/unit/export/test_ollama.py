"""A Modelfile's template says what the chat template says, or there is none."""

from __future__ import annotations

from typing import Any

import pytest

import tiny
from ft.encode.conversation import Renderer, template
from ft.export.ollama import DIALOGUES, SAID, Underivable, go_template, modelfile, render_go

LOOP = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant "


def renderer(name: str) -> Renderer:
    """A renderer of a shipped template, or of a text, over a tokenizer that has the tokens."""
    words: Any = tiny.tokenizer()
    marks = ["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    words.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": marks})
    if name == "llama3":
        words.add_special_tokens({"eos_token": "<|eot_id|>"})
    words.chat_template = template(name)
    return Renderer(words)


@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3", "plain", LOOP])
def test_both_templates_write_every_dialogue_alike(name: str):
    made = renderer(name)
    assert made.template is not None
    go = go_template(made.template, adds_bos=False).text
    for roles in DIALOGUES:
        messages = [{"role": role, "content": SAID[-1 - n % len(SAID)]} for n, role in enumerate(roles)]
        assert render_go(go, messages) == made.template.text(messages, prompt=True)


def test_the_modelfile_of_chatml_is_this():
    text, found = modelfile(renderer("chatml"), 128, adds_bos=False)
    assert text == (
        'FROM .\nTEMPLATE """{{ $before := "" }}{{ range .Messages }}'
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}'
        '{{ else if eq .Role "user" }}{{ if eq $before "" }}<|im_start|>user\n'
        '{{ else if eq $before "assistant" }}<|im_end|>\n<|im_start|>user\n'
        "{{ else }}<|im_end|>\n<|im_start|>user\n{{ end }}{{ .Content }}"
        '{{ else if eq .Role "assistant" }}<|im_end|>\n<|im_start|>assistant\n{{ .Content }}{{ end }}'
        '{{ $before = .Role }}{{ end }}<|im_end|>\n<|im_start|>assistant\n"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 128\n'
    )
    assert found.notes == ()


def test_braces_of_a_template_are_no_action_of_go():
    made = renderer(LOOP.replace("{{ m.role }}", "{{ '{{' + m.role + '}}' }}"))
    assert made.template is not None
    go = go_template(made.template, adds_bos=False).text
    assert '{{ "{{" }}user}}' in go
    assert render_go(go, [{"role": "user", "content": "a"}]) == "<|im_start|>{{user}} a<|im_end|><|im_start|>assistant "


def test_a_bos_that_ollama_writes_itself_stands_once():
    made = renderer("llama2")
    assert made.template is not None
    found = go_template(made.template, adds_bos=True)
    assert "Ollama writes the first <s> itself." in found.notes
    three = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert "<s>" + render_go(found.text, three) == made.template.text(three, prompt=True)
    with pytest.raises(Underivable, match="would write <s> first"):
        modelfile(renderer("chatml"), None, adds_bos=True)


def test_blanks_that_a_template_takes_off_are_told_of():
    notes = go_template(renderer("llama3").template, adds_bos=False).notes  # type: ignore[arg-type]
    assert notes == ("The chat template takes blanks off the ends of a message; in Ollama they stay.",)


REFUSED = {
    "today": (LOOP + "{{ strftime_now('%d') }}", "today's date"),
    "counted turns": (LOOP.replace("{{ m.role }}", "{{ m.role }} {{ loop.index }}"), "depends on more"),
    "what is said": (LOOP.replace("{{ m.content }}", "{{ m.content | replace('Two', 'Three') }}"), "otherwise than"),
    "quotes": (LOOP.replace("{{ m.role }}", '{{ m.role }}"""'), "ends a template in a Modelfile"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_go_cannot_say_is_refused_with_the_reason(case: str):
    text, reason = REFUSED[case]
    made = renderer(text)
    with pytest.raises(Underivable, match=reason):
        modelfile(made, None, adds_bos=False)


def test_a_model_without_a_template_has_no_modelfile():
    words = tiny.tokenizer()
    words.chat_template = None
    with pytest.raises(Underivable, match="no chat template"):
        modelfile(Renderer(words), None, adds_bos=False)
