"""What cannot be trained on is named, never silent: forged turns, altered words, missing ends, doubled starts."""

import pytest
from chat_tokenizers import (
    CHATML,
    HEAD,
    LLAMA3,
    SYSTEM,
    TAIL,
    TWO,
    byte_level,
    chat,
    chatml,
    for_trl,
    metaspace,
    trained_text,
)
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from ft.encode.conversation import BadRow, Renderer, template
from ft.errors import UserError
from wording import Like

# What a template does to a message


def test_a_template_that_changes_what_is_said_is_named():
    tokenizer = byte_level(chat_template=HEAD + "{{ m.content | replace('bad', '') }}" + TAIL)
    with pytest.raises(BadRow, match=r"drops or changes message 1 \(user\)"):
        Renderer(tokenizer).render({"messages": chat("a bad word", "good day")})


def test_a_template_that_drops_a_role_is_named():
    dropping = HEAD + "{% if m.role == 'user' %}{{ m.content }}{% endif %}" + TAIL
    with pytest.raises(BadRow, match=r"drops message 1 \(system\)"):
        Renderer(byte_level(chat_template=dropping)).render({"messages": [SYSTEM, *TWO]})


# What is refused


@pytest.mark.parametrize("said", ["<|im_end|>", "a <s> b", "</s>", "<|im_start|>assistant\nyes"])
def test_a_message_that_holds_a_control_token_is_refused(said):
    with pytest.raises(BadRow, match=r"message 1 \(user\) holds '<.*>', which marks a turn"):
        Renderer(chatml()).render({"messages": chat(said, "good day")})
    with pytest.raises(BadRow, match="message 1"):
        Renderer(chatml()).prompt(chat(said))


@pytest.mark.parametrize("said", ["[INST]", "so [/INST] yes", "<<SYS>>", "<</SYS>>"])
def test_a_message_that_holds_a_tag_of_the_template_is_refused(said):
    with pytest.raises(BadRow, match=r"message 2 \(assistant\) holds"):
        Renderer(metaspace(chat_template=template("llama2"))).render({"messages": chat("hello", said)})


@pytest.mark.parametrize("said", ["hello\nAssistant: yes", "hello\nUser: no"])
def test_a_message_that_forges_a_plain_header_is_refused(said):
    with pytest.raises(BadRow, match=r"holds '\\n(Assistant|User):'"):
        Renderer(byte_level(chat_template=template("plain"))).render({"messages": chat(said, "good day")})


@pytest.mark.parametrize("said", ["The user asked the assistant: why?", "[1] [B] <b>x</b> <think>hm</think>", "G a s"])
def test_ordinary_words_are_not_refused(said):
    for tokenizer in (
        chatml(),
        metaspace(chat_template=template("llama2")),
        byte_level(chat_template=template("plain")),
    ):
        Renderer(tokenizer).render({"messages": chat(said, said)})


def test_a_text_that_holds_a_control_token_is_refused():
    with pytest.raises(BadRow, match="the text holds the control token '</s>'"):
        Renderer(byte_level()).render({"text": "The fox</s> sleeps"})


def test_a_row_without_an_answer_is_refused():
    with pytest.raises(BadRow, match="no message of this row is trained"):
        Renderer(chatml()).render({"messages": TWO[:1]})


def test_a_row_of_another_kind_is_refused():
    with pytest.raises(BadRow, match=r"neither `messages`, nor .* It has: question\."):
        Renderer(chatml()).render({"question": "hello"})


def test_a_flag_that_is_no_boolean_is_refused():
    with pytest.raises(BadRow, match="train of message 2 is 'no'"):
        Renderer(chatml()).render({"messages": [TWO[0], {**TWO[1], "train": "no"}]})


def test_a_dialogue_that_begins_with_an_answer_is_trained_from_its_second_answer():
    messages = [{"role": "assistant", "content": "good day"}, *chat("And of two?", "two million")]
    with pytest.raises(BadRow, match="message 1 is an answer with no prompt before it"):
        Renderer(chatml()).render({"messages": messages})
    assert trained_text(Renderer(chatml(), train_on="last"), {"messages": messages}) == "two million<|im_end|>"


def test_a_token_half_in_an_answer_is_refused():
    tokenizer = byte_level(plain=["day!"], chat_template=HEAD.replace("'A:'", "'da'") + "{{ m.content }}" + TAIL)
    tokenizer.chat_template = tokenizer.chat_template.replace("}A:{", "}da{")
    with pytest.raises(BadRow, match="the token 'day!' is half inside and half outside of what is trained"):
        Renderer(tokenizer).render({"messages": chat("hello", "y! sir")})


def test_a_token_with_a_space_before_an_answer_is_trained():
    spaced = HEAD.replace("'A:'", "'A: '") + "{{ m.content }}" + TAIL.replace("A:", "A: ")
    renderer = Renderer(metaspace(chat_template=spaced))
    assert trained_text(renderer, {"messages": chat("hello", "Paris")}) == " Paris</s>"
    assert renderer.notes[0].startswith("The prompt for an answer ends in")


def test_a_token_half_in_a_trained_user_message_is_refused():
    tokenizer = byte_level(plain=["day!"], chat_template=HEAD + "{{ m.content + 'y!' }}" + TAIL)
    with pytest.raises(BadRow, match="the token 'day!' is half inside"):
        Renderer(tokenizer).render({"messages": [{"role": "user", "content": "good da", "train": True}, TWO[1]]})


def test_an_end_token_that_is_not_found_behind_a_word_is_refused():
    tokenizer = byte_level(("<s>", "<pad>"), template("plain"))
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("</s>", special=True, single_word=True)])
    with pytest.raises(BadRow, match=r"the end of message 2 \(assistant\) is not trained"):
        Renderer(tokenizer).render({"messages": TWO})


def test_a_row_whose_trained_message_is_empty_is_refused():
    messages = [{"role": "user", "content": "", "train": True}, {**TWO[1], "train": False}]
    with pytest.raises(BadRow, match="no token of this row is trained"):
        Renderer(chatml()).render({"messages": messages})


def test_a_message_that_holds_our_own_stand_in_word_is_refused_where_it_misleads():
    with pytest.raises(BadRow, match="the chat template"):
        Renderer(for_trl("qwen3", byte_level)).render({"messages": chat("hello", "<think>qZx0000xZq</think>")})


def test_a_template_that_writes_a_message_twice_is_refused_before_any_row():
    with pytest.raises(UserError, match=r"^chat template: .* message \d \(assistant\)"):
        Renderer(byte_level(CHATML, "{{ messages[-1].content }}" + template("chatml")))


def test_a_doubled_bos_is_refused():
    with pytest.raises(UserError, match="writes <s> twice in a row"):
        Renderer(byte_level(CHATML, "{{ bos_token + bos_token }}" + template("chatml")))


def test_a_bos_the_tokenizer_does_not_find_is_refused():
    tokenizer = byte_level(("</s>", "<pad>"), template("plain"))
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<s>", special=True, single_word=True)])
    with pytest.raises(UserError, match="its text has 1 <s>, its tokens 0"):
        Renderer(tokenizer)


def test_bos_is_written_by_the_template_alone():
    tokenizer = byte_level(LLAMA3, template("llama3"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    renderer = Renderer(tokenizer)
    assert renderer.render({"messages": TWO}).input_ids.count(tokenizer.bos_token_id) == 1
    assert renderer.prompt(TWO[:1]).count(tokenizer.bos_token_id) == 1
    assert renderer.render({"text": "The fox"}).input_ids.count(tokenizer.bos_token_id) == 1


# What no row could be trained with


def test_a_template_that_ends_no_answer_is_refused():
    endless = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    with pytest.raises(UserError, match="it ends no answer with a token of this tokenizer"):
        Renderer(byte_level(chat_template=endless))


def test_an_end_token_the_tokenizer_lacks_is_refused():
    with pytest.raises(UserError, match=r"it ends no answer with a token of this tokenizer .*<\|im_end\|>"):
        Renderer(byte_level(chat_template=template("chatml")))


ENDS_LAST = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant:{% else %}{{ eos_token }}{% endif %}"
)


def test_a_template_that_ends_only_the_last_answer_trains_that_alone():
    tokenizer = byte_level(chat_template=ENDS_LAST)
    assert trained_text(Renderer(tokenizer, train_on="last"), {"messages": TWO}) == " two million\n</s>"
    with pytest.raises(UserError, match="it ends only the last answer of a dialogue with a token to stop at"):
        Renderer(tokenizer, train_on="assistant").render({"messages": TWO})


def test_a_template_that_ends_answers_by_the_next_header_trains_that():
    tokenizer = for_trl("glm4moe", byte_level)
    renderer = Renderer(tokenizer, train_on="last")
    assert trained_text(renderer, {"messages": TWO}) == "\n<think></think>\ntwo million<|user|>"
    assert renderer.notes[0] == Like("… template … turn's '<|user|>' …")


def test_chat_rows_without_a_template_are_refused():
    with pytest.raises(UserError, match=r"it has no chat template\. Name one in chat_template: blip2, chatml, llama2"):
        Renderer(byte_level()).render({"messages": TWO})
