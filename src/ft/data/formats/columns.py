"""What the columns of a row hold: messages, a prompt, a ShareGPT conversation, a transcript, each checked.

The formats (`formats.py`, `preferences.py`) are made of these.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ft.data.formats.fields import CALLS, DEVELOPER, OTHER_ROLES, BadRow, Message, Row, kind_of
from ft.data.formats.messages import dialogue, either, make_message, require_question, role_of

KINDS = frozenset(("messages", "prompt", "completion", "chosen", "rejected", "text"))
"""The columns that say what kind of row it is."""

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    **{name: role for name, role in OTHER_ROLES.items() if name != DEVELOPER},
    DEVELOPER: DEVELOPER,
}

TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def first_of(row: Row, *names: str) -> str:
    """The first of `names` that the row has a value for."""
    for name in names:
        if row.get(name) is not None:
            return name
    present = f"There are: {', '.join(row)}." if row else "The row is empty."
    wanted = either([repr(name) for name in names])
    raise BadRow(f"no column {wanted}", f"{present} Map one with columns: {{{names[0]}: …}}.")


def extras(row: Row, *used: str) -> Row:
    return {name: value for name, value in row.items() if name not in KINDS and name not in used}


def messages_of(row: Row, value: object, column: str) -> list[Message]:
    """The checked messages of a column, behind the text of the column `system` where the row has one."""
    system = row.get("system")
    if system in (None, ""):
        return dialogue(value, column)
    if isinstance(value, list) and value and role_of(value[0]) == "system":
        if value[0].get("content") != system:
            raise BadRow(f"column system and {column} hold two system messages", "Drop one of them.")
        return dialogue(value, column)
    return [*dialogue([make_message("system", system)], "column system"), *dialogue(value, column, "system")]


def prompt_of(row: Row) -> list[Message]:
    value = row[first_of(row, "prompt")]
    turns = [make_message("user", value)] if isinstance(value, str) else value
    return require_question(messages_of(row, turns, "prompt"), "prompt ends")


def sharegpt_message(message: object, where: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("from"), str) or "value" not in message:
        raise BadRow(f"{where} is not an object with from and value", "With role and content it is format: messages.")
    role = SHAREGPT_ROLES.get(message["from"].lower())
    if role is None:
        raise BadRow(f"{where} is from {message['from']!r}", f"Known are: {', '.join(SHAREGPT_ROLES)}.")
    extra_keys = {key: value for key, value in message.items() if key not in ("from", "value")}
    if message["from"].lower() == "function_call":
        return {**extra_keys, "role": role, "content": "", CALLS: _calls_in(message["value"], where)}
    return {**extra_keys, "role": role, "content": message["value"]}


def _calls_in(value: object, where: str) -> Any:
    """The call or calls that a function_call's text is: bare JSON is no model's own notation, the template's is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        fix = 'Write {"name": "…", "arguments": {…}}, or a list of these.'
        raise BadRow(f"{where} is a function_call whose value is no JSON: {error}", fix) from error


def transcript(value: object, column: str) -> list[Message]:
    """Messages of a transcript; the blanks around each turn belong to the notation, not to the text."""
    if not isinstance(value, str):
        raise BadRow(f"{column} is {kind_of(value)}, not a transcript")
    before, *parts = TURN.split(value)
    if not parts or before.strip():
        fix = 'Write "\\n\\nHuman: …\\n\\nAssistant: …".'
        raise BadRow(f"{column} does not start with 'Human:' or 'Assistant:'", fix)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [make_message(roles[name], text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def is_transcript(value: object) -> bool:
    return isinstance(value, str) and TURN.match(value) is not None
