"""The shipped templates, by their literal output, and how a template is named."""

import os

import pytest
from chat_tokenizers import CHATML, LLAMA3, byte_level, metaspace

from ft.encode.conversation import BadRow, Renderer, template
from ft.errors import UserError

TURNS = [
    {"role": "user", "content": " What is the capital? "},
    {"role": "assistant", "content": "It is Paris."},
    {"role": "user", "content": "And of two?"},
    {"role": "assistant", "content": "two million"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "good day"},
]
SYSTEM = {"role": "system", "content": "You answer in rhyme."}


def rendered(tokenizer, messages):
    Renderer(tokenizer).render({"messages": messages})
    return tokenizer.apply_chat_template(messages, tokenize=False)


def test_llama2_is_what_metas_generation_code_writes():
    assert rendered(metaspace(chat_template=template("llama2")), [SYSTEM, *TURNS]) == (
        "<s>[INST] <<SYS>>\nYou answer in rhyme.\n<</SYS>>\n\n What is the capital?  [/INST] It is Paris. </s>"
        "<s>[INST] And of two? [/INST] two million </s>"
        "<s>[INST] hello [/INST] good day </s>"
    ).replace("\n\n What is the capital?  [", "\n\nWhat is the capital? [")


def test_llama2_begins_every_turn_with_one_bos():
    tokenizer = metaspace(chat_template=template("llama2"))
    assert Renderer(tokenizer).render({"messages": TURNS}).input_ids.count(tokenizer.bos_token_id) == 3


def test_chatml():
    assert rendered(byte_level(CHATML, template("chatml")), [SYSTEM, *TURNS[2:4]]) == (
        "<|im_start|>system\nYou answer in rhyme.<|im_end|>\n"
        "<|im_start|>user\nAnd of two?<|im_end|>\n"
        "<|im_start|>assistant\ntwo million<|im_end|>\n"
    )


def test_llama3():
    assert rendered(byte_level(LLAMA3, template("llama3")), [SYSTEM, *TURNS[:2]]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nYou answer in rhyme.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nIt is Paris.<|eot_id|>"
    )


def test_plain():
    assert rendered(byte_level(chat_template=template("plain")), [SYSTEM, *TURNS[:4]]) == (
        "<s>You answer in rhyme.\n\n"
        "User: What is the capital?\nAssistant: It is Paris.</s>\n"
        "User: And of two?\nAssistant: two million</s>\n"
    )


def test_plain_does_without_bos():
    tokenizer = byte_level(("</s>", "<pad>"), template("plain"), bos_token=None)
    assert rendered(tokenizer, TURNS[2:4]) == "User: And of two?\nAssistant: two million</s>\n"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([TURNS[0], SYSTEM, TURNS[1]], "Llama 2 has one system message, at the start."),
        ([SYSTEM, TURNS[1]], "Llama 2 folds the system message into the first user message, so one must follow it."),
        ([TURNS[0], TURNS[1], TURNS[3]], "Llama 2 needs a user message before each answer."),
        ([TURNS[0], {"role": "tool", "content": "x"}, TURNS[1]], "Llama 2 has no role tool"),
    ],
)
def test_llama2_names_what_it_cannot_render(messages, why):
    with pytest.raises(BadRow, match=f"the chat template refuses it: {why}"):
        Renderer(metaspace(chat_template=template("llama2"))).render({"messages": messages})


def test_a_template_is_named_by_a_file(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{{ messages }} é", encoding="utf-8")
    assert template(str(path)) == "{{ messages }} é"


def test_a_template_is_given_as_text():
    assert template("{% for m in messages %}{% endfor %}") == "{% for m in messages %}{% endfor %}"


def test_an_unknown_template_lists_the_shipped_ones():
    with pytest.raises(
        UserError, match=r"chat_template: no template 'chatlm'\. There are: blip2, chatml, llama2, llama3, plain"
    ):
        template("chatlm")


def test_a_template_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jinja: No such file or directory"):
        template(str(tmp_path / "none.jinja"))


def test_a_template_that_is_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jinja")
    with pytest.raises(UserError, match=r"pipe\.jinja is no file\. Name a \.jinja file"):
        template(str(tmp_path / "pipe.jinja"))
