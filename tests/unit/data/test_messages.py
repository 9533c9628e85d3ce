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


def test_train_is_kept_and_other_keys_are_left_out() -> None:
    messages = [USER | {"name": "Ann"}, ASSISTANT | {"train": False, "tool_calls": None}]

    assert dialogue(messages, "messages") == [USER, ASSISTANT | {"train": False}]


def test_the_weight_of_openai_is_read_as_train() -> None:
    messages = [USER, ASSISTANT | {"weight": 0}, USER, ASSISTANT | {"weight": 1}]

    assert [message.get("train") for message in dialogue(messages, "messages")] == [None, False, None, True]


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
            [USER | {"content": [{"type": "text", "text": "Hi"}]}],
            Like("messages: message 1 (user) … list of parts …"),
        ),
        (
            [USER | {"content": "smile \ud83d"}],
            Like("messages: message 1 (user) … surrogate …"),
        ),
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            Like("messages: message 2 (assistant) … tool_calls instead …"),
        ),
        (
            [USER, ASSISTANT | {"tool_calls": [{"id": "1"}]}],
            Like("messages: message 2 (assistant) … tool_calls beside …"),
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
