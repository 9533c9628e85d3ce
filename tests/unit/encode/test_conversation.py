"""Rendering and masks: which tokens are trained, and who said each."""

import json

import pytest
from chat_tokenizers import LLAMA3, SYSTEM, TWO, byte_level, chat, chatml, for_trl, metaspace, trained_text

from ft.encode.conversation import ROLES, BadRow, Renderer, template
from wording import Like

# What is trained


def test_last_trains_the_last_answer_through_its_end_token():
    assert trained_text(Renderer(chatml(), train_on="last"), {"messages": TWO}) == "two million<|im_end|>"


def test_assistant_trains_every_answer_through_its_end_token():
    renderer = Renderer(chatml(), train_on="assistant")
    assert trained_text(renderer, {"messages": TWO}) == "good day<|im_end|>␣…␣two million<|im_end|>"


def test_completion_of_a_messages_row_is_its_last_answer():
    assert trained_text(Renderer(chatml(), train_on="completion"), {"messages": TWO}) == "two million<|im_end|>"


def test_completion_trains_everything_after_the_prompt():
    row = {"prompt": TWO[:1], "completion": TWO[1:]}
    wanted = "good day<|im_end|>\n<|im_start|>user\nAnd of two?<|im_end|>\n<|im_start|>assistant\ntwo million<|im_end|>"
    assert trained_text(Renderer(chatml(), train_on="completion"), row) == wanted


def test_assistant_leaves_the_answers_of_a_prompt_alone():
    row = {"prompt": TWO[:3], "completion": TWO[3:]}
    assert trained_text(Renderer(chatml(), train_on="assistant"), row) == "two million<|im_end|>"


def test_all_trains_every_token():
    wanted = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\ngood day<|im_end|>\n"
    assert trained_text(Renderer(chatml(), train_on="all"), {"messages": TWO[:2]}) == wanted


def test_train_false_takes_an_answer_out():
    messages = [TWO[0], {**TWO[1], "train": False}, *TWO[2:]]
    assert trained_text(Renderer(chatml(), train_on="assistant"), {"messages": messages}) == "two million<|im_end|>"


def test_train_true_puts_an_earlier_answer_in():
    messages = [TWO[0], {**TWO[1], "train": True}, *TWO[2:]]
    wanted = "good day<|im_end|>␣…␣two million<|im_end|>"
    assert trained_text(Renderer(chatml(), train_on="last"), {"messages": messages}) == wanted


def test_train_true_on_a_user_message_trains_its_words_only():
    messages = [{**TWO[0], "train": True}, TWO[1]]
    assert trained_text(Renderer(chatml(), train_on="last"), {"messages": messages}) == "hello␣…␣good day<|im_end|>"


def test_train_false_makes_a_hole_in_all():
    messages = [{**TWO[0], "train": False}, TWO[1]]
    wanted = "<|im_start|>user\n␣…␣<|im_end|>\n<|im_start|>assistant\ngood day<|im_end|>\n"
    assert trained_text(Renderer(chatml(), train_on="all"), {"messages": messages}) == wanted


def test_train_does_not_change_the_tokens():
    renderer = Renderer(chatml())
    flagged = [TWO[0], {**TWO[1], "train": False}, *TWO[2:]]
    assert renderer.render({"messages": flagged}).input_ids == renderer.render({"messages": TWO}).input_ids


def test_an_empty_answer_trains_its_end_token():
    assert trained_text(Renderer(chatml()), {"messages": chat("hello", "")}) == "<|im_end|>"


def test_an_empty_answer_between_turns_trains_its_end_token():
    messages = chat("hello", "", "And of two?", "two million")
    assert trained_text(Renderer(chatml()), {"messages": messages}) == "<|im_end|>␣…␣two million<|im_end|>"


def test_an_empty_answer_that_would_end_otherwise_as_the_last_trains_its_own_end():
    messages = chat("hello", "", "And of two?", "two million")
    before = "<|channel|>final<|message|>"
    wanted = f"{before}<|end|>␣…␣{before}two million<|return|>"
    assert trained_text(Renderer(for_trl("gptoss", byte_level)), {"messages": messages}) == wanted


def test_equal_words_of_user_and_assistant_are_told_apart():
    rendered = Renderer(chatml(), train_on="last").render({"messages": chat("hello", "hello", "hello", "hello")})
    end = len(chatml()("hello<|im_end|>")["input_ids"])
    newline = 1
    assert _trained(rendered) == [False] * (len(rendered.labels) - end - newline) + [True] * end + [False]


def _trained(rendered):
    return [label != -100 for label in rendered.labels]


def test_a_text_row_is_trained_whole_and_ends_in_eos():
    tokenizer = byte_level()
    rendered = Renderer(tokenizer).render({"text": "The fox sleeps"})
    assert tokenizer.decode(rendered.input_ids) == "The fox sleeps</s>"
    assert rendered.labels == rendered.input_ids


def test_pad_equal_to_eos_hides_no_end():
    tokenizer = byte_level(("<s>", "</s>"), template("plain"), pad_token="</s>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert trained_text(Renderer(tokenizer), {"messages": TWO}) == " good day</s>␣…␣ two million</s>"


def test_an_emoji_split_over_tokens_is_trained_whole():
    tokenizer = chatml()
    assert len(tokenizer("🦊", add_special_tokens=False)["input_ids"]) == 4
    assert trained_text(Renderer(tokenizer), {"messages": chat("🦊", "🦊🦊 é")}) == "🦊🦊 é<|im_end|>"


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("name", ["llama2", "plain"])
def test_a_prompt_is_where_its_answer_begins(make, name):
    tokenizer = make(chat_template=template(name))
    renderer = Renderer(tokenizer, train_on="last")
    for messages in (TWO, [SYSTEM, *TWO], chat("🦊", "1 + 2 = 3")):
        prompt, rendered = renderer.prompt(messages[:-1]), renderer.render({"messages": messages})
        assert rendered.input_ids[: len(prompt)] == prompt
        assert _trained(rendered).index(True) == len(prompt)
    assert renderer.notes == ()


# Who said it


def test_roles_say_who_said_each_token():
    tokenizer = chatml()
    rendered = Renderer(tokenizer).render({"messages": [SYSTEM, *TWO[:2]]})
    said = {role: [] for role in ROLES}
    for id, role in zip(rendered.input_ids, rendered.roles, strict=True):
        said[ROLES[role]].append(id)
    assert {role: tokenizer.decode(ids) for role, ids in said.items()} == {
        "template": "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n\n",
        "system": "You answer in rhyme.",
        "user": "hello",
        "assistant": "good day<|im_end|>",
        "tool": "",
    }


# Generation


def test_stop_ids_are_what_ends_an_answer():
    tokenizer = byte_level(LLAMA3, template("llama3"))
    assert tokenizer.convert_ids_to_tokens(Renderer(tokenizer).stop_ids) == ["<|eot_id|>"]


def test_stop_ids_are_both_where_the_last_answer_ends_otherwise():
    tokenizer = for_trl("gptoss", byte_level)
    assert tokenizer.convert_ids_to_tokens(Renderer(tokenizer).stop_ids) == ["<|end|>", "<|return|>"]


def test_without_a_template_eos_stops():
    tokenizer = byte_level()
    assert Renderer(tokenizer).stop_ids == (tokenizer.eos_token_id,)


def test_a_prompt_that_ends_in_an_answer_is_refused():
    with pytest.raises(BadRow, match="a prompt ends before an answer"):
        Renderer(chatml()).prompt(TWO)


def test_a_prompt_may_hold_an_earlier_answer_whose_thinking_the_template_leaves_out():
    tokenizer = for_trl("qwen3", byte_level)
    prompt = Renderer(tokenizer).prompt(chat("hello", "<think>\nhm\n</think>\n\ngood day", "And of two?"))
    assert "assistant\ngood day<|im_end|>" in tokenizer.decode(prompt)


# Templates that look into what is said


THOUGHT = "<think>\n1 + 2\n</think>\n\ntwo million"


def test_thinking_of_the_last_answer_is_trained():
    renderer = Renderer(for_trl("qwen3", byte_level), train_on="last")
    assert trained_text(renderer, {"messages": chat("And of two?", THOUGHT)}) == THOUGHT + "<|im_end|>"


def test_thinking_left_out_of_an_earlier_answer_is_counted():
    renderer = Renderer(for_trl("qwen3", byte_level), train_on="last")
    messages = chat("hello", "<think>\nhm\n</think>\n\ngood day", "And of two?", THOUGHT)
    assert trained_text(renderer, {"messages": messages}) == THOUGHT + "<|im_end|>"
    assert renderer.counts.answers_shortened == 1


def test_thinking_left_out_of_a_trained_answer_is_refused():
    renderer = Renderer(for_trl("qwen3", byte_level), train_on="assistant")
    with pytest.raises(BadRow, match=r"leaves the thinking out of message 2 \(assistant\)"):
        renderer.render({"messages": chat("hello", "<think>\nhm\n</think>\n\ngood day", "And of two?", THOUGHT)})


def test_thinking_before_a_tools_answer_is_trained():
    renderer = Renderer(for_trl("qwen3", byte_level), train_on="assistant")
    thought = "<think>\nhm\n</think>\n\ngood day"
    messages = chat("hello", thought, "<tool_response>two</tool_response>", THOUGHT)  # not the last question to Qwen3
    wanted = f"{thought}<|im_end|>␣…␣{THOUGHT}<|im_end|>"
    assert trained_text(renderer, {"messages": messages}) == wanted


def test_tools_are_given_to_the_template():
    tokenizer = for_trl("qwen3", byte_level)
    tool = {"type": "function", "function": {"name": "count_stars", "parameters": {"type": "object", "properties": {}}}}
    for tools in ([tool], json.dumps([tool])):
        rendered = Renderer(tokenizer).render({"messages": TWO[:2], "tools": tools})
        assert '"name": "count_stars"' in tokenizer.decode(rendered.input_ids)


# Batches


def test_a_batch_gives_what_single_rows_give():
    rows = [
        {"messages": TWO},
        {"messages": chat("<|im_end|>", "good day")},
        {"text": "The fox sleeps"},
        {"prompt": TWO[:3], "completion": TWO[3:]},
        {"messages": TWO[:1]},
        {"messages": [SYSTEM, *TWO], "tools": None},
        {"messages": chat("a b c " * 40, "good day")},
    ]
    options = {"max_length": 60, "on_too_long": "drop"}
    together = Renderer(chatml(), **options).render_batch(rows)
    assert [type(result).__name__ for result in together] == [
        "RenderedRow", "BadRow", "RenderedRow", "RenderedRow", "BadRow", "RenderedRow", "NoneType",
    ]  # fmt: skip
    for row, result in zip(rows, together, strict=True):
        if isinstance(result, BadRow):
            with pytest.raises(BadRow) as refused:
                Renderer(chatml(), **options).render(row)
            assert (refused.value.what, refused.value.fix) == (result.what, result.fix)
        else:
            assert Renderer(chatml(), **options).render(row) == result


def test_one_row_the_template_refuses_spoils_no_other():
    renderer = Renderer(metaspace(chat_template=template("llama2")))
    good, bad = renderer.render_batch([{"messages": TWO}, {"messages": [TWO[0], TWO[0], TWO[1]]}])
    assert good == renderer.render({"messages": TWO})
    assert bad.what == Like("… template … 2 … messages …")
