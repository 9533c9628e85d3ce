"""Messages that can be trained on: known roles in an order that makes sense, and text in each."""

from __future__ import annotations

from collections.abc import Sequence

from ft.data.formats.fields import CALLS, REASONING, Message, kind_of, read_message
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
        role, content = message.get("role"), message.get("content")
        if role not in AFTER[before]:
            raise _wrong_role(column, number, role, before)
        where = f"{column}: message {number} ({role})"
        if len(message) > 2 or "content" not in message:
            message = read_message(message, where)
        if CALLS in message and (content is None or content == ""):
            message["content"] = content = ""  # a call says enough
        elif not isinstance(content, str) or not content.strip():
            raise _bad_content(where, role, content)
        if not content.isascii() and not is_unicode(content):
            raise _bad_content(where, role, content)
        if REASONING in message and not is_unicode(message[REASONING]):
            raise _bad_content(f"{where}: its reasoning", role, message[REASONING])
        messages.append(message)
        before = role
    return messages


def _wrong_role(column: str, number: int, role: object, before: str) -> BadRow:
    if role not in ROLES:
        return BadRow(f"{column}: message {number} has role {role!r}", f"Roles are {', '.join(ROLES)}.")
    if role == "system":
        return BadRow(f"{column}: message {number} is a system message", "Only the first message may be one.")
    if not before:
        return BadRow(f"{column} starts with a message of the {role}", "It starts with system or user.")
    return BadRow(
        f"{column}: message {number} ({role}) follows {before}", f"After {before} comes {either(AFTER[before])}."
    )


def _bad_content(where: str, role: str, content: object) -> BadRow:
    if isinstance(content, str):
        if content.strip():
            return BadRow(f"{where} holds half a surrogate pair, which is no character", "Write the text as UTF-8.")
        fix = "Leave the message out." if role == "system" else "Give it text or drop the row."
        return BadRow(f"{where} is empty", fix)
    if isinstance(content, list):
        return BadRow(f"{where}: content is a list of parts", "Only text is read: make content one string.")
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
    return [message.get(REASONING, ""), repr(message.get(CALLS))] if {REASONING, CALLS} & message.keys() else []
