"""What a row may look like: each format is a pure function from a row as read to a row as trained on.

Inside, everything is conversational: `messages`; `prompt` + `completion`; `prompt` + `chosen` + `rejected`; `prompt`;
or plain `text`. Columns a format does not know are kept, except the names just listed: a row of one kind that carried
another kind's column (a preference row with a copy of its dialogue in `messages`) could be taken for either.

To add a format: one function and one line in `FORMATS`; if its columns give it away, one line in `detect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ft.data.dialogue import BadRow as BadRow
from ft.data.dialogue import Message, answered, asking, dialogue, either, is_unicode, kind_of, said, words

Row = dict[str, Any]

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
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}

TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


# Columns


def _column(row: Row, *names: str) -> str:
    """The first of `names` that the row has a value for."""
    for name in names:
        if row.get(name) is not None:
            return name
    there = f"There are: {', '.join(row)}." if row else "The row is empty."
    wanted = either([repr(name) for name in names])
    raise BadRow(f"no column {wanted}", f"{there} Map one with columns: {{{names[0]}: …}}.")


def _extras(row: Row, *used: str) -> Row:
    return {name: value for name, value in row.items() if name not in KINDS and name not in used}


def _dialogue(row: Row, value: Any, column: str) -> list[Message]:
    """The checked messages of a column, behind the text of the column `system` where the row has one."""
    system = row.get("system")
    if system in (None, ""):
        return dialogue(value, column)
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].get("role") == "system":
        if value[0].get("content") != system:
            raise BadRow(f"column system and {column} hold two system messages", "Drop one of them.")
        return dialogue(value, column)
    return [*dialogue([said("system", system)], "column system"), *dialogue(value, column, "system")]


def _prompt(row: Row) -> list[Message]:
    value = row[_column(row, "prompt")]
    turns = [said("user", value)] if isinstance(value, str) else value
    return asking(_dialogue(row, turns, "prompt"), "prompt ends")


# Formats


def messages(row: Row) -> Row:
    """`messages` (or `conversations`) with role and content, as OpenAI writes them; optional `train` in each."""
    column = _column(row, "messages", "conversations")
    turns = _dialogue(row, row[column], column)
    return {**_extras(row, "conversations", "system"), "messages": answered(turns, column)}


def every_answer(row: Row) -> Row:
    """`messages` without their `train`, so that `rows: {train_on: …}` decides: the ablation of Ghost Attention."""
    found = messages(row)
    bare = [{"role": message["role"], "content": message["content"]} for message in found["messages"]]
    return {**found, "messages": bare}


def sharegpt(row: Row) -> Row:
    """`conversations` (or `messages`) with from and value: human, gpt, system, tool and what else they were called."""
    column = _column(row, "conversations", "messages")
    value = row[column]
    if isinstance(value, list):
        value = [_from_sharegpt(message, f"{column}: message {number}") for number, message in enumerate(value, 1)]
    turns = _dialogue(row, value, column)
    return {**_extras(row, "conversations", "system"), "messages": answered(turns, column)}


def _from_sharegpt(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("from"), str) or "value" not in message:
        raise BadRow(f"{where} is not an object with from and value", "With role and content it is format: messages.")
    role = SHAREGPT_ROLES.get(message["from"].lower())
    if role is None:
        raise BadRow(f"{where} is from {message['from']!r}", f"Known are: {', '.join(SHAREGPT_ROLES)}.")
    others = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {**others, "role": role, "content": message["value"]}


def alpaca(row: Row) -> Row:
    """`instruction`, `output` and, where given, `input` (on a new line), `system`, `history` (pairs)."""
    _column(row, "instruction")
    _column(row, "output")
    turns = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRow(f"history is {kind_of(history)}, not a list of pairs", 'Write [["question", "answer"], …].')
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"history: entry {number} is not a pair", 'Write [["question", "answer"], …].')
        turns += [said("user", pair[0]), said("assistant", pair[1])]
    for name in ("instruction", "input"):
        if not isinstance(row.get(name) or "", str):
            raise BadRow(f"{name} is {kind_of(row[name])}, not a string")
    question = row["instruction"]
    if row.get("input"):
        question = f"{question}\n{row['input']}"
    turns += [said("user", question), said("assistant", row["output"])]
    extras = _extras(row, "instruction", "input", "output", "history", "system")
    return {**extras, "messages": _dialogue(row, turns, "alpaca row")}


def prompt_completion(row: Row) -> Row:
    """`prompt` and `completion`, each a string or a list of messages; the completion is what is trained."""
    prompt = _prompt(row)
    value = row[_column(row, "completion")]
    wrapped = [said("assistant", value)] if isinstance(value, str) else value
    completion = answered(dialogue(wrapped, "completion", prompt[-1]["role"]), "completion")
    return {**_extras(row, "system"), "prompt": prompt, "completion": completion}


def prompt(row: Row) -> Row:
    """`prompt` alone, a string or a list of messages, for sampling; extra columns such as `answer` stay."""
    return {**_extras(row, "system"), "prompt": _prompt(row)}


def text(row: Row) -> Row:
    """`text`: a plain document."""
    value = row[_column(row, "text")]
    if not isinstance(value, str):
        raise BadRow(f"text is {kind_of(value)}, not a string")
    if not value.strip():
        raise BadRow("text is empty", "Give it text or drop the row.")
    if not is_unicode(value):
        raise BadRow("text holds half a surrogate pair, which is no character", "Write the text as UTF-8.")
    return {**_extras(row), "text": value}


def hh(row: Row) -> Row:
    """A transcript "\\n\\nHuman: … \\n\\nAssistant: …" in `text`, `transcript` or `chosen` (Anthropic's hh-rlhf)."""
    column = _column(row, "text", "transcript", "chosen")
    turns = _dialogue(row, _transcript(row[column], column), column)
    return {**_extras(row, "transcript", "system"), "messages": answered(turns, column)}


def hh_pairs(row: Row) -> Row:
    """`chosen` and `rejected` as whole transcripts; what they share is the prompt."""
    chosen, rejected = (_transcript(row[_column(row, name)], name) for name in ("chosen", "rejected"))
    return {**_extras(row, "system"), **_parted(row, chosen, rejected)}


def _transcript(value: Any, column: str) -> list[Message]:
    """Messages of a transcript; the blanks around each turn belong to the notation, not to the text."""
    if not isinstance(value, str):
        raise BadRow(f"{column} is {kind_of(value)}, not a transcript")
    before, *parts = TURN.split(value)
    if not parts or before.strip():
        fix = 'Write "\\n\\nHuman: …\\n\\nAssistant: …".'
        raise BadRow(f"{column} does not start with 'Human:' or 'Assistant:'", fix)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [said(roles[name], spoken.strip()) for name, spoken in zip(parts[::2], parts[1::2], strict=True)]


# Preferences


def preference(row: Row) -> Row:
    """`chosen` and `rejected` as strings or messages, with a `prompt` or as two dialogues that begin with it."""
    chosen, rejected = row[_column(row, "chosen")], row[_column(row, "rejected")]
    if type(chosen) is not type(rejected):
        raise BadRow(f"chosen is {kind_of(chosen)} but rejected is {kind_of(rejected)}", "Write both alike.")
    if isinstance(chosen, list) and not _starts_with_answer(chosen):
        pair = _parted(row, chosen, rejected)
        _check_prompt(row.get("prompt"), pair["prompt"])
        return {**_extras(row, "system"), **pair}
    if isinstance(chosen, str) and row.get("prompt") is None and TURN.match(chosen):
        raise BadRow("no column 'prompt', and chosen is a transcript", "Read it with format: hh_pairs.")
    prompt = _prompt(row)
    sides = {}
    for name in ("chosen", "rejected"):
        wrapped = [said("assistant", row[name])] if isinstance(row[name], str) else row[name]
        sides[name] = answered(dialogue(wrapped, name, prompt[-1]["role"]), name)
    _check_different(sides["chosen"], sides["rejected"])
    return {**_extras(row, "system"), "prompt": prompt, **sides}


def _starts_with_answer(turns: list[Any]) -> bool:
    return bool(turns) and isinstance(turns[0], dict) and turns[0].get("role") == "assistant"


def _parted(row: Row, chosen: Any, rejected: Any) -> Row:
    """Two whole dialogues as prompt, chosen and rejected: the prompt is what they share."""
    chosen = answered(_dialogue(row, chosen, "chosen"), "chosen")
    rejected = answered(_dialogue(row, rejected, "rejected"), "rejected")
    _check_different(chosen, rejected)
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if words([one]) != words([other]):
            break
        shared += 1
    if not shared:
        raise BadRow("chosen and rejected share no first message", "Both begin with the same prompt.")
    for name, longer, turns in (("chosen", "rejected", chosen), ("rejected", "chosen", rejected)):
        if len(turns) == shared:
            raise BadRow(f"{name} is only the beginning of {longer}, so it has no answer of its own", "Drop the row.")
    prompt = asking(chosen[:shared], "what chosen and rejected share ends")
    return {"prompt": prompt, "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _check_different(chosen: list[Message], rejected: list[Message]) -> None:
    if words(chosen) == words(rejected):
        raise BadRow("chosen and rejected are the same", "A pair needs two answers; drop the row.")


def _check_prompt(given: Any, shared: list[Message]) -> None:
    """A prompt written beside two whole dialogues is one of the user messages they share, or all they share."""
    if given is None:
        return
    if isinstance(given, str):
        same = ("user", given.strip()) in words(shared)
    else:
        same = words(dialogue(given, "prompt")) == words(shared)
    if not same:
        raise BadRow("prompt is not what chosen and rejected begin with", "Drop the column prompt or mend it.")


FORMATS: dict[str, Callable[[Row], Row]] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
    "text": text,
    "hh": hh,
    "preference": preference,
    "hh_pairs": hh_pairs,
    "prompt": prompt,
    "every_answer": every_answer,
}


def format_row(name: str, row: Row, columns: dict[str, str]) -> Row:
    """The row in the format `name`, after `columns` (ours: theirs) has given its columns our names."""
    return FORMATS[name](_mapped(row, columns) if columns else row)


def _mapped(row: Row, columns: dict[str, str]) -> Row:
    found = {ours: _reach(row, theirs) for ours, theirs in columns.items()}
    return {name: value for name, value in row.items() if name not in columns.values()} | found


def _reach(row: Row, path: str) -> Any:
    """The value at a dotted path (`meta.question`, `answers.0.text`); a column with that very name comes first."""
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise BadRow(f"no column {path!r}", f"There are: {', '.join(row)}.")
    return value


def detect(row: Row, columns: dict[str, str] | None = None) -> str:
    """The name of the format a row is in, as far as its columns say; `BadRow` when they say nothing or two things."""
    row = _mapped(row, columns) if columns else row
    has = {name for name, value in row.items() if value is not None}
    found = []
    if {"chosen", "rejected"} <= has:
        found.append("hh_pairs" if _is_transcript(row["chosen"]) and "prompt" not in has else "preference")
    if "messages" in has or "conversations" in has:
        found.append(_detect_messages(row["messages" if "messages" in has else "conversations"]))
    if {"instruction", "output"} <= has:
        found.append("alpaca")
    if {"prompt", "completion"} <= has:
        found.append("prompt_completion")
    if not found:
        found = ["prompt"] if "prompt" in has else []
        if any(_is_transcript(row.get(name)) for name in ("text", "transcript", "chosen")):
            found.append("hh")
        elif "text" in has:
            found.append("text")
    if len(found) == 1:
        return found[0]
    if found:
        raise BadRow(f"the row could be {either(found)}", "Say which one with format: ….")
    fix = f"Say it with format: … (one of {', '.join(FORMATS)}) and columns: {{ours: theirs}}."
    raise BadRow(f"no format is known for the columns {', '.join(row) or '(none)'}", fix)


def _detect_messages(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    return "sharegpt" if isinstance(first, dict) and "from" in first else "messages"


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and TURN.match(value) is not None
