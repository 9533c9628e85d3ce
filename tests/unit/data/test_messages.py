from typing import Any

import pytest

from ft.data.formats.messages import BadRow, dialogue

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
        ("hello", 'messages is a string, not a list of messages Write [{"role": "user", "content": "…"}, …].'),
        ({}, 'messages is an object, not a list of messages Write [{"role": "user", "content": "…"}, …].'),
        ([], "messages is an empty list Give it messages or drop the row."),
        (["hello"], "messages: message 1 is a string, not an object with role and content"),
        (
            [USER | {"role": "chatbot"}],
            "messages: message 1 has role 'chatbot' Roles are system, user, assistant, tool.",
        ),
        ([{"content": "x"}], "messages: message 1 has role None Roles are system, user, assistant, tool."),
        ([USER | {"role": []}], "messages: message 1 has role [] Roles are system, user, assistant, tool."),
        ([USER | {"role": ""}], "messages: message 1 has role '' Roles are system, user, assistant, tool."),
        ([ASSISTANT], "messages starts with a message of the assistant It starts with system or user."),
        ([USER, USER], "messages: message 2 (user) follows user After user comes assistant."),
        (
            [USER, ASSISTANT, ASSISTANT],
            "messages: message 3 (assistant) follows assistant After assistant comes user or tool.",
        ),
        (
            [USER, {"role": "system", "content": "x"}],
            "messages: message 2 is a system message Only the first message may be one.",
        ),
        (
            [USER, ASSISTANT | {"content": " \n"}],
            "messages: message 2 (assistant) is empty Give it text or drop the row.",
        ),
        (
            [USER | {"content": None}],
            "messages: message 1 (user): content is null, not a string Give it text or drop the row.",
        ),
        (
            [USER | {"content": 3}],
            "messages: message 1 (user): content is a number, not a string Give it text or drop the row.",
        ),
        (
            [USER | {"content": [{"type": "text", "text": "Hi"}]}],
            "messages: message 1 (user): content is a list of parts Only text is read: make content one string.",
        ),
        (
            [USER | {"content": "smile \ud83d"}],
            "messages: message 1 (user) holds half a surrogate pair, which is no character Write the text as UTF-8.",
        ),
        (
            [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            "messages: message 2 (assistant) has tool_calls instead of content Write the call as text in content.",
        ),
        (
            [USER, ASSISTANT | {"tool_calls": [{"id": "1"}]}],
            "messages: message 2 (assistant) has tool_calls beside its content Write the call as text in content.",
        ),
        ([USER, ASSISTANT | {"train": "no"}], "messages: message 2 (assistant): train is 'no' It is true or false."),
        (
            [USER, ASSISTANT | {"weight": 0.5}],
            "messages: message 2 (assistant): weight is 0.5 It is 0 (not trained) or 1.",
        ),
    ],
)
def test_what_is_wrong_with_a_message_is_said(value: Any, text: str) -> None:
    with pytest.raises(BadRow) as bad:
        dialogue(value, "messages")

    assert said(bad) == text


def test_messages_may_continue_others() -> None:
    assert dialogue([ASSISTANT], "completion", before="user") == [ASSISTANT]
