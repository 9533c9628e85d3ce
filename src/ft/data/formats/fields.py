"""What becomes of each column of a row and each key of a message: read, refused, or left alone and named.

A column that changes what a row means is read or refused, never left out: other tools write who is to be trained, what
an answer thought and which tools it called in columns of their own. Everything else is left alone and named once, with
counts (`UnreadFields`). To add a field: a line in one of the tables, and one in docs/data.md, which a test compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ft.printable import printable_line

Row = dict[str, Any]
Message = dict[str, Any]

TOOLS, VARIABLES = "tools", "chat_template_kwargs"
REASONING, CALLS = "reasoning_content", "tool_calls"

# Key of a message → the name it is read under. Each family of tools has its own word for the same thing.
TRAIN_KEYS = ("train", "weight", "loss", "training", "loss_weight")  # ft, OpenAI, ms-swift, axolotl, LLaMA-Factory
REASONING_KEYS = (REASONING, "reasoning", "thinking")  # DeepSeek and Qwen, OpenRouter and vLLM, gpt-oss
CALL_KEYS = (CALLS, "function_call")  # OpenAI's two ways, the second from before 2023-11
OF_A_TOOL = ("name", "tool_call_id")  # which call a tool's message answers; some templates write them
DEVELOPER = "developer"  # true in a system message that was written with OpenAI's newer role
MESSAGE_KEYS = frozenset(("role", "content", "train", REASONING, CALLS, DEVELOPER, "images"))

# Roles of other notations: OpenAI's and Gemma's, then Llama 3.1's and OpenAI's for what a tool has answered.
OTHER_ROLES = {"developer": "system", "model": "assistant", "ipython": "tool", "function": "tool"}

# Type of a part of a content → the key of the message that it belongs to, in the order they may stand.
PART_TYPES = {
    **dict.fromkeys(("reasoning", "thinking"), REASONING),  # LLaMA-Factory, Anthropic
    **dict.fromkeys(("text", "input_text", "output_text"), "content"),  # OpenAI, and its Responses
    "tool_call": CALLS,  # LLaMA-Factory
}
IN_A_PART = ("text", "value", "thinking", "reasoning")  # where its text stands
PICTURE_TYPES = frozenset(("image", "image_url", "input_image"))  # transformers, OpenAI, and its Responses
PICTURE_TAG = "<image>"  # LLaVA's, at an end of what the user says
PLACEHOLDERS = ("<video>", "<audio>")  # the same for what nothing here reads
IMAGES = "images"  # the key of a message that has pictures (ft.data.pictures)
PICTURE_COLUMNS = ("image", "images")

# Columns that a trained row is made of, whatever format it came in.
CONVERSATION_COLUMNS = frozenset(("messages", "prompt", "completion", "text", TOOLS, VARIABLES))
_PAIR = ("prompt", "chosen", "rejected", "rating", "safety_chosen", "safety_rejected")
PAIR_COLUMNS = frozenset((*_PAIR, TOOLS, VARIABLES, "ref_chosen_logps", "ref_rejected_logps"))
UNPAIRED_COLUMNS = frozenset(("prompt", "completion", "label", TOOLS, VARIABLES))


class BadRow(ValueError):
    """A row that cannot be trained on: `what` is wrong with it, `fix` is what to write instead."""

    def __init__(self, what: str, fix: str = ""):
        super().__init__(f"{what} {fix}".rstrip())
        self.what = what
        self.fix = fix


# Columns that are refused


class Refusal(NamedTuple):
    """A column whose value says that the row is of another task; `fix` is what to do with such rows."""

    is_meant: Callable[[Any], bool]
    what: str
    fix: str


_MEDIA = Refusal(bool, "holds {name}, and text is all that is read", "Drop the row, or rename the column.")
LABEL_COLUMNS = ("label", "kto_tag")  # whether an answer is wanted; the second is LLaMA-Factory's word


def is_label(value: object) -> bool:
    """Whether the value says yes or no; other things are called labels too."""
    return isinstance(value, bool) or value in ("true", "false")


_KTO_LABEL = Refusal(
    is_label,
    "says by {name} whether its answer is wanted (KTO), and here every answer is trained",
    "Keep the rows whose {name} is true and drop the column, or read them with format: unpaired_preference in a stage "
    "that learns from labels.",
)
_WEIGHT = Refusal(
    lambda value: _number(value) not in (None, 1),
    "says by {name} how much it counts, and here every row counts alike",
    "Leave out the column; a source counts more by `weight:` of its own, and `train: false` leaves out a message.",
)
_HISTORY = Refusal(
    lambda value: isinstance(value, list) and bool(value),
    "has a {name} of earlier turns beside its messages",
    "Write these turns as messages before the others, or the row as instruction, output and history.",
)
_REASONING_COLUMN = Refusal(
    lambda value: isinstance(value, str) and bool(value.strip()),
    "has {name} beside its messages",
    "Write it into the message of the assistant that it belongs to.",
)
_MASK = Refusal(
    lambda value: value is not None,
    "has a {name}, which counts the tokens of another tokenizer",
    "Write `train: false` in each message that is not to be trained.",
)
REFUSED: dict[str, Refusal] = {
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), _MEDIA),
    **dict.fromkeys(("loss_mask", "labels_mask"), _MASK),
    **dict.fromkeys(("weight", "loss_weight", "sample_weight"), _WEIGHT),
    "history": _HISTORY,
}
LABELS: dict[str, Refusal] = dict.fromkeys(LABEL_COLUMNS, _KTO_LABEL)
REFUSED_WHERE_ANSWERS_ARE_TRAINED: dict[str, Refusal] = {**LABELS, REASONING: _REASONING_COLUMN}
REFUSED_WHERE_PAIRS_ARE_SCORED: dict[str, Refusal] = {
    "margin": Refusal(
        lambda value: _number(value) is not None,
        "has a {name}, and a reward model here takes its margins from `rating`",
        "Grade the pair by a rating from 1 to 4, or drop the column.",
    )
}


def check_columns(row: Row, *tables: Mapping[str, Refusal], reads: Collection[str] = ()) -> None:
    """BadRow where a column says that the row means something else than its messages say; `reads` are those that the
    row's format heeds."""
    for table in tables:
        if table.keys().isdisjoint(row):
            continue
        for name, refusal in table.items():
            if name in row and name not in reads and refusal.is_meant(row[name]):
                raise BadRow(f"the row {refusal.what.format(name=name)}", refusal.fix.format(name=name))


def _number(value: object) -> float | None:
    """A number, or the text of one, as a table without types has it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


# Columns that may be JSON text, because a table has no place for what they hold


def read_columns(row: Row) -> Row:
    """The row with its `tools` and `chat_template_kwargs` as values, and without those that are empty."""
    if TOOLS not in row and VARIABLES not in row:
        return row
    columns = {name: value for name, value in row.items() if name not in (TOOLS, VARIABLES)}
    if tools := _json_value(row.get(TOOLS), TOOLS):
        columns[TOOLS] = _checked_tools(tools)
    if variables := _json_value(row.get(VARIABLES), VARIABLES):
        if not isinstance(variables, dict):
            raise BadRow(f"{VARIABLES} is {kind_of(variables)}, not an object", 'Write {"enable_thinking": false}.')
        if reserved := sorted(_OF_THE_CALL & variables.keys()):
            what = f"{VARIABLES} sets {', '.join(reserved)}, which is no variable of a template"
            raise BadRow(what, "A row says what its template reads, and not how it is rendered: leave it out.")
        columns[VARIABLES] = variables
    return columns


# Arguments of transformers' apply_chat_template itself: with these a row could bring a template of its own
_RENDERING = ("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message")
_ENCODING = ("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs")
_OF_THE_CALL = frozenset(
    (*_RENDERING, *_ENCODING, "sanitize_control_tokens", "return_assistant_tokens_mask", "processor_kwargs")
)


def _json_value(value: object, name: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        fix = f"Is it another column of that name? columns: {{their_{name}: {name}}} renames it."
        raise BadRow(f"{name} is text that is no JSON: {error}", fix) from error


def _checked_tools(tools: object) -> list[Any]:
    fix = 'Write [{"type": "function", "function": {"name": "…", "parameters": {…}}}].'
    if not isinstance(tools, list):
        raise BadRow(f"tools is {kind_of(tools)}, not a list of tools", fix)
    for number, tool in enumerate(tools, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(f"tools: entry {number} is no function with a name", fix)
    return tools


# Keys of a message


def join_parts(message: Message, where: str) -> Message:
    """The message with its content as one text: its parts of text joined, those that think or call in fields of their
    own, pictures as they are written under `images`. Raises BadRow for a part that is none of these."""
    values: dict[str, list[str]] = {key: [] for key in dict.fromkeys(PART_TYPES.values())}
    order = list(values)
    last = order[0]
    pictures: list[object] = []
    for number, part in enumerate(message["content"], 1):
        kind, text = _part(part)
        if kind in PICTURE_TYPES and message["role"] == "user":
            pictures.append(part)
            continue
        key = PART_TYPES.get(kind)
        if key is None or (key != "content" and message["role"] != "assistant"):
            what = f"{where}: part {number} of its content is of type {kind!r}"
            raise BadRow(what, "Text is all that is read: drop the row, or the part if it says nothing.")
        if text is None:
            fix = 'Write {"type": "text", "text": "…"}.'
            raise BadRow(f"{where}: part {number} of its content, of type {kind!r}, holds no text", fix)
        if order.index(key) < order.index(last):
            what = f"{where}: part {number} of its content, of type {kind!r}, stands behind one of another type"
            raise BadRow(what, "First comes what the answer thought, then its text, then its tool calls.")
        last = key
        values[key].append(text)
    found = {**message, "content": "".join(values["content"]), **({IMAGES: pictures} if pictures else {})}
    for key in (REASONING, CALLS):
        if values[key] and message.get(key):
            raise BadRow(f"{where}: {key} stands beside its content and in it", "Leave one of them.")
    if values[REASONING]:
        found[REASONING] = "".join(values[REASONING])
    if values[CALLS]:
        found[CALLS] = [_json_call(text, where) for text in values[CALLS]]
    return found


def _part(part: object) -> tuple[str, str | None]:
    """Type and text of a part of a content."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        return kind_of(part), None
    texts = (part[name] for name in IN_A_PART if isinstance(part.get(name), str))
    return str(part.get("type")), next(texts, None)


def _json_call(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{where}: a tool call is no JSON: {error}", _CALL_FIX) from error


def read_message(message: Message, where: str) -> Message:
    """The message with what it says under one name each: `train`, `reasoning_content`, `tool_calls`. Raises BadRow."""
    for key in ("train_detail", "training_detail"):  # axolotl's spans of characters within a message
        if message.get(key):
            raise BadRow(f"{where} has {key}", "A message is trained whole or not at all: write train: true or false.")
    found = {key: value for key, value in message.items() if key not in _ALIASES and value is not None}
    if (train := _train(message, where)) is not None:
        found["train"] = train
    if message["role"] == "assistant":
        if reasoning := _one_of(message, REASONING_KEYS, where):
            if not isinstance(reasoning, str):
                raise BadRow(f"{where}: its reasoning is {kind_of(reasoning)}, not a string")
            found[REASONING] = reasoning
        if calls := _one_of(message, CALL_KEYS, where):
            found[CALLS] = read_calls(calls, where)
    elif others := [key for key in (*REASONING_KEYS, *CALL_KEYS) if message.get(key)]:
        raise BadRow(f"{where} has {others[0]}", "Only the assistant thinks and calls: leave it out, or fix its role.")
    return found


_ALIASES = frozenset((*TRAIN_KEYS, *REASONING_KEYS, *CALL_KEYS))
_TRAIN_VALUES = {"0": False, "1": True, "true": True, "false": False}


def _train(message: Message, where: str) -> bool | None:
    """Whether it is trained, as the first key says; other weights than 0 and 1 have no equal here."""
    values = {}
    for key in TRAIN_KEYS:
        value = message.get(key)
        if value is None:
            continue
        train = _TRAIN_VALUES.get(str(value).lower()) if isinstance(value, int | float | str) else None
        train = bool(value) if train is None and value in (0.0, 1.0) else train
        if train is None or (key == "train" and not isinstance(value, bool)):
            fix = "It is true or false." if key in ("train", "loss", "training") else "It is 0 (not trained) or 1."
            raise BadRow(f"{where}: {key} is {value!r}", fix)
        values[key] = train
    if len(set(values.values())) > 1:
        raise BadRow(f"{where}: {' and '.join(values)} say different things", "Leave one of them.")
    return next(iter(values.values()), None)


def _one_of(message: Message, keys: Iterable[str], where: str) -> Any:
    values = {key: message[key] for key in keys if message.get(key)}
    if len({repr(value) for value in values.values()}) > 1:
        raise BadRow(f"{where}: {' and '.join(values)} say different things", "Leave one of them.")
    return next(iter(values.values()), None)


def read_calls(calls: object, where: str) -> list[Row]:
    """Calls in OpenAI's form, arguments as an object. Raises BadRow."""
    entries = calls if isinstance(calls, list) else [calls]
    return [_call(entry, f"{where}: tool call {number}") for number, entry in enumerate(entries, 1)]


_CALL_FIX = 'Write {"function": {"name": "…", "arguments": {…}}}.'


def _call(entry: object, where: str) -> Row:
    fix = _CALL_FIX
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise BadRow(f"{where} names no function", fix)
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if arguments in (None, "") else arguments
    if isinstance(arguments, str):  # OpenAI's own form: JSON inside of JSON
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{where}: its arguments are no JSON: {error}", fix) from error
    if not isinstance(arguments, dict):
        raise BadRow(f"{where}: its arguments are {kind_of(arguments)}, not an object", fix)
    call: Row = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    id = entry.get("id") if isinstance(entry, dict) else None
    return call | ({"id": id} if isinstance(id, str) else {})


# What is left alone


class UnreadFields:
    """Counts the columns and the keys of messages that nothing reads; `read` are the columns that something does."""

    def __init__(self, read: frozenset[str]):
        self.read = read
        self.counts: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Count what is not empty in a formatted row; rows that ft made carry where they are from, which is no loss."""
        if "sampled" in row or "sampling" in row:
            return
        for name, value in row.items():
            if name not in self.read:
                if value not in (None, "", [], {}):
                    self.counts[name] += 1
            elif isinstance(value, list) and name != TOOLS:
                messages = (one for one in value if isinstance(one, dict) and "role" in one and len(one) > 2)
                extra = {key for message in messages for key in self._extra_keys(message)}
                self.counts.update(f"{name}.{key}" for key in extra)

    @staticmethod
    def _extra_keys(message: Message) -> Iterable[str]:
        known = OF_A_TOOL if message["role"] == "tool" else ()
        return (key for key in message if key not in MESSAGE_KEYS and key not in known)

    @property
    def notes(self) -> list[str]:
        """One sentence, or none."""
        if not self.counts:
            return []
        first = [
            f"{printable_line(name, 80)} ({count:,} rows)" for name, count in self.counts.most_common(SHOWN_FIELDS)
        ]
        others_text = f" and {len(self.counts) - SHOWN_FIELDS:,} more" if len(self.counts) > SHOWN_FIELDS else ""
        return [f"Fields not read: {', '.join(first)}{others_text}."]


SHOWN_FIELDS = 12


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
