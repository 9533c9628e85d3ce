"""Messages that can be trained on: known roles in an order that makes sense, and text in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

AFTER = {
    "": ("user", "system"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""Which roles may follow a role; "" is the start."""

ROLES = ("system", "user", "assistant", "tool")


class BadRow(ValueError):
    """A row that cannot be trained on: `what` is wrong with it, `fix` is what to write instead."""

    def __init__(self, what: str, fix: str = ""):
        super().__init__(f"{what} {fix}".rstrip())
        self.what = what
        self.fix = fix


class Tie(BadRow):
    """A pair without a better answer: both are the same, or the source scores them alike."""


def dialogue(value: Any, column: str, before: str = "") -> list[Message]:
    """The messages of a column, checked: roles in order, text in each; `before` is the role they come after.

    A message keeps `role`, `content` and `train`; OpenAI's `weight: 0 | 1` is read as `train`. Other keys are left out.
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
        if not isinstance(content, str) or not content.strip() or not (content.isascii() or is_unicode(content)):
            raise _bad_content(f"{column}: message {number} ({role})", content, bool(message.get("tool_calls")))
        messages.append(message if len(message) == 2 else _plain(message, f"{column}: message {number} ({role})"))
        before = role
    return messages


def _wrong_role(column: str, number: int, role: Any, before: str) -> BadRow:
    if role not in ROLES:
        return BadRow(f"{column}: message {number} has role {role!r}", f"Roles are {', '.join(ROLES)}.")
    if role == "system":
        return BadRow(f"{column}: message {number} is a system message", "Only the first message may be one.")
    if not before:
        return BadRow(f"{column} starts with a message of the {role}", "It starts with system or user.")
    return BadRow(
        f"{column}: message {number} ({role}) follows {before}", f"After {before} comes {either(AFTER[before])}."
    )


def _bad_content(where: str, content: Any, calls: bool) -> BadRow:
    if calls:
        return BadRow(f"{where} has tool_calls instead of content", "Write the call as text in content.")
    if isinstance(content, str):
        if content.strip():
            return BadRow(f"{where} holds half a surrogate pair, which is no character", "Write the text as UTF-8.")
        return BadRow(f"{where} is empty", "Give it text or drop the row.")
    if isinstance(content, list):
        return BadRow(f"{where}: content is a list of parts", "Only text is read: make content one string.")
    return BadRow(f"{where}: content is {kind_of(content)}, not a string", "Give it text or drop the row.")


def _plain(message: Message, where: str) -> Message:
    """Only what the renderer knows; what would change the text and is not known is refused."""
    for key in ("tool_calls", "function_call"):
        if message.get(key):
            raise BadRow(f"{where} has {key} beside its content", "Write the call as text in content.")
    train, weight = message.get("train"), message.get("weight")
    if train is None and weight is not None:
        if weight not in (0, 1):
            raise BadRow(f"{where}: weight is {weight!r}", "It is 0 (not trained) or 1.")
        train = bool(weight)
    plain = {"role": message["role"], "content": message["content"]}
    if train is None:
        return plain
    if not isinstance(train, bool):
        raise BadRow(f"{where}: train is {train!r}", "It is true or false.")
    return plain | {"train": train}


def is_unicode(text: str) -> bool:
    """JSON can spell half a surrogate pair ("\\ud83d"); no tokenizer can encode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def either(words: Sequence[str]) -> str:
    return " or ".join(words)


def make_message(role: str, text: Any) -> Message:
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


def words(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]
