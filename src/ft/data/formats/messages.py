"""Messages that can be trained on: known roles in an order that makes sense, and text in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ft.data.formats.fields import (
    CALLS,
    DEVELOPER,
    IMAGES,
    OTHER_ROLES,
    PICTURE_TAG,
    PLACEHOLDERS,
    REASONING,
    Message,
    join_parts,
    kind_of,
    read_message,
)
from ft.data.formats.fields import BadRow as BadRow

AFTER = {
    "": ("user", "system"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may follow a role; "" is the start."""

ROLES = ("system", "user", "assistant", "tool")


class Tie(BadRow):
    """A pair without a better answer: both are the same, or the source scores them alike."""


def dialogue(value: object, column: str, before: str = "") -> list[Message]:
    """The messages of a column, checked: roles in order, text in each; `before` is the role they come after.

    What else a message says is put under one name each (`fields.read_message`); keys that nothing reads stay as they
    are, so that they can be counted.
    """
    if not isinstance(value, list):
        fix = 'Write [{"role": "user", "content": "…"}, …].'
        raise BadRow(f"{column} is {kind_of(value)}, not a list of messages", fix)
    if not value:
        raise BadRow(f"{column} is an empty list", "Give it messages or drop the row.")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise BadRow(f"{column}: message {number} is {kind_of(message)}, not an object with role and content")
        role, content = role_of(message), message.get("content")
        if role not in AFTER[before]:
            raise _wrong_role(column, number, message, before)
        where = f"{column}: message {number} ({message['role']})"
        if message["role"] != role:
            message = {**message, "role": role, **({DEVELOPER: True} if message["role"] == DEVELOPER else {})}
        if isinstance(content, list):
            message = join_parts(message, where)
            content = message["content"]
        if len(message) > 2 or "content" not in message:
            message = read_message(message, where)
        if CALLS in message and (content is None or content == ""):
            message["content"] = content = ""  # a call says enough
        if isinstance(content, str) and role == "user" and PICTURE_TAG in content:
            message = _take_tags(message)
            content = message["content"]
        if content == "" and (CALLS in message or message.get(IMAGES)):
            pass  # a picture alone asks for its caption
        elif not isinstance(content, str) or not content.strip():
            raise _bad_content(where, role, content)
        if not content.isascii() and not is_unicode(content):
            raise _bad_content(where, role, content)
        if REASONING in message and not is_unicode(message[REASONING]):
            raise _bad_content(f"{where}: its reasoning", role, message[REASONING])
        if role == "user" and (content.startswith(PLACEHOLDERS) or content.rstrip().endswith(PLACEHOLDERS)):
            what = f"{where} asks about what is no text: {', '.join(tag for tag in PLACEHOLDERS if tag in content)}"
            raise BadRow(what, "Text is all that is read: drop the row.")
        messages.append(message)
        before = role
    return messages


def _take_tags(message: Message) -> Message:
    """The message with a place for a picture (None) under `images` for each tag at an end of its text."""
    text, tags = message["content"].strip(), 0
    while text.startswith(PICTURE_TAG) or text.endswith(PICTURE_TAG):
        text = (text.removeprefix(PICTURE_TAG) if text.startswith(PICTURE_TAG) else text[: -len(PICTURE_TAG)]).strip()
        tags += 1
    return {**message, "content": text, IMAGES: [*message.get(IMAGES, ()), *[None] * tags]} if tags else message


def role_of(message: object) -> Any:
    """The role of a message by the name it has here; None for what has none."""
    role = message.get("role") if isinstance(message, dict) else None
    return OTHER_ROLES.get(role, role) if isinstance(role, str) else role


def _wrong_role(column: str, number: int, message: Message, before: str) -> BadRow:
    role, written = role_of(message), message.get("role")
    if role not in ROLES:
        known = ", ".join((*ROLES, *OTHER_ROLES))
        return BadRow(f"{column}: message {number} has role {written!r}", f"Roles are {known}.")
    if role == "system":
        return BadRow(f"{column}: message {number} is a system message", "Only the first message may be one.")
    if not before:
        return BadRow(f"{column} starts with a message of the {written}", "It starts with system or user.")
    return BadRow(
        f"{column}: message {number} ({written}) follows {before}", f"After {before} comes {either(AFTER[before])}."
    )


def _bad_content(where: str, role: str, content: object) -> BadRow:
    if isinstance(content, str):
        if content.strip():
            return BadRow(f"{where} holds half a surrogate pair, which is no character", "Write the text as UTF-8.")
        fix = "Leave the message out." if role == "system" else "Give it text or drop the row."
        return BadRow(f"{where} is empty", fix)
    return BadRow(f"{where}: content is {kind_of(content)}, not a string", "Give it text or drop the row.")


def is_unicode(text: str) -> bool:
    """JSON can spell half a surrogate pair ("\\ud83d"); no tokenizer can encode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def either(words: Sequence[str]) -> str:
    return " or ".join(words)


def label_of(value: object, name: str) -> bool:
    """Whether the answer is wanted."""
    label = _LABELS.get(str(value).strip().lower()) if isinstance(value, str | bool | int) else None
    if label is None:
        raise BadRow(f"{name} is {value!r}", "It is true (the answer is wanted) or false.")
    return label


_LABELS = {"true": True, "1": True, "false": False, "0": False}


def make_message(role: str, text: object) -> Message:
    return {"role": role, "content": text}


def require_answer(messages: list[Message], column: str) -> list[Message]:
    """A dialogue to train on ends with an answer."""
    if messages[-1]["role"] != "assistant":
        fix = "Drop what follows the last answer, or read it with format: prompt."
        raise BadRow(f"{column} ends with a message of the {messages[-1]['role']}, not of the assistant", fix)
    return messages


def require_question(turns: list[Message], what_ends: str) -> list[Message]:
    if turns[-1]["role"] not in ("user", "tool"):
        fix = "It ends with what is to be answered."
        raise BadRow(f"{what_ends} with a message of the {turns[-1]['role']}, not of the user", fix)
    return turns


def words(messages: Sequence[Message]) -> list[tuple[str, ...]]:
    """What is said, to compare messages by: role and text of each, and what it thought and called."""
    return [(message["role"], message["content"].strip(), *_beside_content(message)) for message in messages]


def _beside_content(message: Message) -> list[str]:
    if len(message) == 2:
        return []
    texts = [message.get(REASONING, ""), repr(message.get(CALLS))] if {REASONING, CALLS} & message.keys() else []
    return [*texts, *message.get(IMAGES, ())]
