from typing import Any

import pytest

from ft.data.formats.messages import BadRow, dialogue
from wording import Like

USER = {"role": "user", "content": "Hello?"}
ASSISTANT = {"role": "assistant", "content": "Hi."}


def said(bad: pytest.ExceptionInfo[BadRow]) -> str:
    return str(bad.value)


def test_a_dialogue_with_system_and_tool_messages_passes_unchanged() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        ASSISTANT,
        {"role": "tool", "content": "21 degrees"},
        {"role": "tool", "content": "sunny"},
        ASSISTANT,
        USER,
        ASSISTANT,
    ]

    assert dialogue(messages, "messages") == messages


def test_keys_that_nothing_reads_stay_to_be_counted_and_empty_ones_leave() -> None:
    messages = [USER | {"name": "Ann"}, ASSISTANT | {"train": False, "tool_calls": None}]

    assert dialogue(messages, "messages") == [USER | {"name": "Ann"}, ASSISTANT | {"train": False}]


@pytest.mark.parametrize(
    ("key", "no", "yes"),
    [
        ("weight", 0, 1),
        ("weight", "0", "1"),
        ("loss", False, True),
        ("training", False, True),
        ("loss_weight", 0.0, 1.0),
    ],
)
def test_whom_other_tools_train_is_read_as_train(key: str, no: Any, yes: Any) -> None:
    messages = [USER, ASSISTANT | {key: no}, USER, ASSISTANT | {key: yes}]

    assert dialogue(messages, "messages") == [USER, ASSISTANT | {"train": False}, USER, ASSISTANT | {"train": True}]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_what_an_answer_thought_has_one_name(key: str) -> None:
    assert dialogue([USER, ASSISTANT | {key: "i add."}], "messages")[1] == ASSISTANT | {"reasoning_content": "i add."}


@pytest.mark.parametrize(
    ("written", "role"), [("model", "assistant"), ("ipython", "tool"), ("function", "tool"), ("developer", "system")]
)
def test_roles_of_other_notations_have_one_name(written: str, role: str) -> None:
    before = {"assistant": [USER], "tool": [USER, ASSISTANT], "system": []}[role]

    found = dialogue([*before, {"role": written, "content": "x"}], "messages")[-1]

    assert (found["role"], found["content"]) == (role, "x")


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}],
        [{"type": "text", "value": "Hello?"}],
        [{"type": "input_text", "text": "Hello?"}],
        ["Hello?"],
    ],
    ids=["OpenAI", "LLaMA-Factory", "Responses", "bare"],
)
def test_parts_of_text_are_joined(parts: list[Any]) -> None:
    assert dialogue([USER | {"content": parts, "loss_weight": 0.0}], "messages") == [USER | {"train": False}]


def test_parts_that_think_and_call_have_fields_of_their_own() -> None:
    call = '{"name": "look", "arguments": {"q": "frog"}}'
    parts = [{"type": "reasoning", "value": "i look."}, {"type": "tool_call", "value": call}]

    assert dialogue([USER, {"role": "assistant", "content": parts}], "messages")[1] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "i look.",
        "tool_calls": [CALL],
    }


def test_a_tag_inside_of_a_text_is_text() -> None:
    messages = [USER | {"content": "What does <image> mean in SVG?"}, ASSISTANT]

    assert dialogue(messages, "messages") == messages


CALL = {"type": "function", "function": {"name": "look", "arguments": {"q": "frog"}}}


@pytest.mark.parametrize(
    "keys",
    [
        {"content": None, "tool_calls": [CALL]},
        {"content": "", "tool_calls": [{"function": {"name": "look", "arguments": '{"q": "frog"}'}}]},
        {"tool_calls": [{"name": "look", "arguments": {"q": "frog"}}]},
        {"function_call": {"name": "look", "arguments": '{"q": "frog"}'}},
    ],
    ids=["object", "json text", "flat", "function_call"],
)
def test_a_call_has_one_form(keys: dict[str, Any]) -> None:
    message = dialogue([USER, {"role": "assistant", **keys}], "messages")[1]

    assert message == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hello", Like("messages … a string …")),
        ({}, Like("messages … an object …")),
        ([], Like("messages … empty list …")),
        (["hello"], Like("messages: message 1 … a string …")),
        (
            [USER | {"role": "chatbot"}],
            Like("messages: message 1 … role 'chatbot' …"),
        ),
        ([{"content": "x"}], Like("messages: message 1 … role None …")),
        ([USER | {"role": []}], Like("messages: message 1 … role [] …")),
        ([USER | {"role": ""}], Like("messages: message 1 … role '' …")),
        ([ASSISTANT], Like("messages starts … assistant …")),
        ([USER, USER], Like("messages: message 2 (user) follows user …")),
        (
            [USER, ASSISTANT, ASSISTANT],
            Like("messages: message 3 (assistant) follows assistant …"),
        ),
        (
            [USER, {"role": "system", "content": "x"}],
            Like("messages: message 2 … system …"),
        ),
        (
            [USER, ASSISTANT | {"content": " \n"}],
            Like("messages: message 2 (assistant) … empty …"),
        ),
        (
            [USER | {"content": None}],
            Like("messages: message 1 (user) … null …"),
        ),
        (
            [USER | {"content": 3}],
            Like("messages: message 1 (user) … a number …"),
        ),
        (
            [USER | {"content": [{"type": "text"}]}],
            Like("messages: message 1 (user): part 1 … 'text', … no text …"),
        ),
        ([USER | {"content": [7]}], Like("messages: message 1 (user): part 1 … type 'a number' …")),
        ([USER | {"content": []}], Like("messages: message 1 (user) is empty …")),
        (
            [USER | {"content": [{"type": "reasoning", "value": "hm"}]}],
            Like("messages: message 1 (user): part 1 … type 'reasoning' …"),
        ),
        (
            [USER, ASSISTANT | {"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}]}],
            Like("messages: message 2 (assistant): part 2 … 'thinking', stands behind …"),
        ),
        (
            [USER, ASSISTANT | {"content": [{"type": "reasoning", "value": "a"}], "reasoning_content": "b"}],
            Like("messages: message 2 (assistant): reasoning_content stands beside …"),
        ),
        (
            [USER, ASSISTANT | {"content": [{"type": "tool_call", "value": "look"}]}],
            Like("messages: message 2 (assistant): a tool call is no JSON: …"),
        ),
        ([USER | {"reasoning": "hm"}], Like("messages: message 1 (user) has reasoning …")),
        ([USER | {"content": "What is it?\n<video>\n"}], Like("messages: message 1 (user) asks about … <video> …")),
        ([{"role": "developer", "content": "a"}, {"role": "system", "content": "b"}], Like("messages: message 2 …")),
        (
            [USER | {"content": "smile \ud83d"}],
            Like("messages: message 1 (user) … surrogate …"),
        ),
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            "messages: message 2 (assistant): tool call 1 names no function "
            'Write {"function": {"name": "…", "arguments": {…}}}.',
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"name": "look", "arguments": "q=frog"}]}],
            "messages: message 2 (assistant): tool call 1: its arguments are no JSON: "
            'Expecting value: line 1 column 1 (char 0) Write {"function": {"name": "…", "arguments": {…}}}.',
        ),
        (
            [USER, ASSISTANT | {"train": True, "loss": False}],
            "messages: message 2 (assistant): train and loss say different things Leave one of them.",
        ),
        (
            [USER, ASSISTANT | {"reasoning": "a", "thinking": "b"}],
            "messages: message 2 (assistant): reasoning and thinking say different things Leave one of them.",
        ),
        (
            [USER, ASSISTANT | {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}],
            "messages: message 2 (assistant) has train_detail "
            "A message is trained whole or not at all: write train: true or false.",
        ),
        (
            [{"role": "system", "content": ""}, USER],
            "messages: message 1 (system) is empty Leave the message out.",
        ),
        ([USER, ASSISTANT | {"train": "no"}], Like("messages: message 2 (assistant) … train … 'no' …")),
        (
            [USER, ASSISTANT | {"weight": 0.5}],
            Like("messages: message 2 (assistant) … weight … 0.5 …"),
        ),
    ],
)
def test_what_is_wrong_with_a_message_is_said(value: Any, text: str) -> None:
    with pytest.raises(BadRow) as bad:
        dialogue(value, "messages")

    assert said(bad) == text


def test_messages_may_continue_others() -> None:
    assert dialogue([ASSISTANT], "completion", before="user") == [ASSISTANT]
