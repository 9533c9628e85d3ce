"""What a row may look like: each format is a pure function from a row as read to a row as trained on.

Inside, everything is conversational: `messages`; `prompt` + `completion`, or with a `label` too; `prompt` + `chosen` +
`rejected`; `prompt`; or plain `text`. Columns a format does not know are kept, except the names just listed: a row of
one kind that carried another kind's column (a preference row with a copy of its dialogue in `messages`) could be taken
for either.

Pairs of answers are read in `preferences.py`. To add a format: one function and one line in `FORMATS`; if its columns
give it away, one line in `detect`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ft.data.formats.columns import (
    KINDS,
    extras,
    first_of,
    is_transcript,
    messages_of,
    prompt_of,
    sharegpt_message,
    transcript,
)
from ft.data.formats.columns import Row as Row
from ft.data.formats.fields import (
    LABEL_COLUMNS,
    PICTURE_COLUMNS,
    REASONING,
    REFUSED,
    REFUSED_WHERE_ANSWERS_ARE_TRAINED,
    Message,
    check_columns,
    is_label,
    kind_of,
    read_columns,
)
from ft.data.formats.fields import BadRow as BadRow
from ft.data.formats.messages import (
    dialogue,
    either,
    is_unicode,
    label_of,
    make_message,
    require_answer,
    require_question,
    role_of,
)
from ft.data.formats.pictures import caption, place_pictures, question_answer, refuse_pictures
from ft.data.formats.preferences import (
    hh_pairs,
    preference,
    sharegpt_pairs,
    shp,
    stack_exchange,
    summaries,
    ultrafeedback,
    webgpt,
)

# Formats


def messages(row: Row) -> Row:
    """`messages` (or `conversations`) with role and content, as OpenAI writes them; optional `train` in each."""
    column = first_of(row, "messages", "conversations")
    turns = messages_of(row, row[column], column)
    return {**extras(row, "conversations", "system"), "messages": require_answer(turns, column)}


def every_answer(row: Row) -> Row:
    """`messages` without their `train`, so that `rows: {train_on: …}` decides: the ablation of Ghost Attention."""
    found = messages(row)
    without_train = [{key: value for key, value in message.items() if key != "train"} for message in found["messages"]]
    return {**found, "messages": without_train}


def sharegpt(row: Row) -> Row:
    """`conversations` (or `messages`) with from and value: human, gpt, system, tool and what else they were called."""
    column = first_of(row, "conversations", "messages")
    value = row[column]
    if isinstance(value, list):
        value = [sharegpt_message(message, f"{column}: message {number}") for number, message in enumerate(value, 1)]
    turns = messages_of(row, value, column)
    return {**extras(row, "conversations", "system"), "messages": require_answer(turns, column)}


def alpaca(row: Row) -> Row:
    """`instruction`, `output` and, where given, `input` (on a new line), `system`, `history` (pairs), and what the
    answer thought as `reasoning_content`."""
    first_of(row, "instruction")
    first_of(row, "output")
    turns = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRow(f"history is {kind_of(history)}, not a list of pairs", 'Write [["question", "answer"], …].')
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f"history: entry {number} is not a pair", 'Write [["question", "answer"], …].')
        turns += [make_message("user", pair[0]), make_message("assistant", pair[1])]
    for name in ("instruction", "input"):
        if not isinstance(row.get(name) or "", str):
            raise BadRow(f"{name} is {kind_of(row[name])}, not a string")
    question = row["instruction"]
    if row.get("input"):
        question = f"{question}\n{row['input']}"
    turns += [make_message("user", question), _answer_of(row, row["output"])]
    extra_columns = extras(row, "instruction", "input", "output", "history", "system", REASONING)
    return {**extra_columns, "messages": messages_of(row, turns, "alpaca row")}


def prompt_completion(row: Row) -> Row:
    """`prompt` and `completion`, each a string or a list of messages; the completion is what is trained."""
    prompt = prompt_of(row)
    value = row[first_of(row, "completion")]
    used = {"system", *([REASONING] if isinstance(value, str) else ())}
    if isinstance(value, str):
        value = [_answer_of(row, value)]
    else:
        check_columns(row, REFUSED_WHERE_ANSWERS_ARE_TRAINED)
    completion = require_answer(dialogue(value, "completion", prompt[-1]["role"]), "completion")
    return {**extras(row, *used), "prompt": prompt, "completion": completion}


def _answer_of(row: Row, text: object) -> Message:
    """The row's answer, with what it thought where a column of its own holds that."""
    thought = {REASONING: row[REASONING]} if row.get(REASONING) else {}
    return {**make_message("assistant", text), **thought}


def prompt(row: Row) -> Row:
    """`prompt` alone, a string or a list of messages, for sampling; extra columns such as `answer` stay."""
    return {**extras(row, "system"), "prompt": prompt_of(row)}


def user_turns(row: Row) -> Row:
    """What users said without any answer: `turns`, a list of texts, or `messages`; a system message may stand before.

    Only a stage that answers turn by turn can use such a row (`kind: gatt`).
    """
    column = first_of(row, "turns", "messages", "conversations")
    value = row[column]
    if not isinstance(value, list):
        raise BadRow(f"{column} is {kind_of(value)}, not a list of what users said", 'Write ["…", "…"].')
    turns = [make_message("user", turn) if isinstance(turn, str) else turn for turn in value]
    for number, turn in enumerate(turns, 1):
        if role_of(turn) in ("assistant", "tool"):
            raise BadRow(f"{column}: message {number} is of the {turn['role']}", "Read it with format: messages.")
    found = messages_of(row, turns[:1], column)
    for number, turn in enumerate(turns[1:], 2):
        found += dialogue([turn], f"{column}, turn {number}", "system")
    return {**extras(row, "turns", "conversations", "system"), "messages": require_question(found, f"{column} ends")}


def text(row: Row) -> Row:
    """`text`: a plain document."""
    value = row[first_of(row, "text")]
    if not isinstance(value, str):
        raise BadRow(f"text is {kind_of(value)}, not a string")
    if not value.strip():
        raise BadRow("text is empty", "Give it text or drop the row.")
    if not is_unicode(value):
        raise BadRow("text holds half a surrogate pair, which is no character", "Write the text as UTF-8.")
    return {**extras(row), "text": value}


def hh(row: Row) -> Row:
    """A transcript "\\n\\nHuman: … \\n\\nAssistant: …" in `text`, `transcript` or `chosen` (Anthropic's hh-rlhf)."""
    column = first_of(row, "text", "transcript", "chosen")
    turns = messages_of(row, transcript(row[column], column), column)
    return {**extras(row, "transcript", "system"), "messages": require_answer(turns, column)}


def unpaired_preference(row: Row) -> Row:
    """An answer and whether it is wanted, `label` (or `kto_tag`): `prompt` and `completion`, or what else ends with an
    answer (`messages`, `conversations`, `instruction` and `output`)."""
    label = first_of(row, *LABEL_COLUMNS)
    wanted = label_of(row[label], label)
    whole = {name: value for name, value in row.items() if name not in LABEL_COLUMNS}
    name = detect(whole)
    if name not in ANSWERED:
        raise BadRow(f"no answer is known for its {label}", "Write `prompt` and `completion`, or `messages`.")
    found = format_row(name, whole, {})
    if turns := found.pop("messages", None):
        found |= {
            "prompt": require_question(turns[:-1], "what stands before the answer ends"),
            "completion": turns[-1:],
        }
    return {**found, "label": wanted}


PAIRS: dict[str, Callable[[Row], Row]] = {
    "preference": preference,
    "hh_pairs": hh_pairs,
    "sharegpt_pairs": sharegpt_pairs,
    "ultrafeedback": ultrafeedback,
    "stack_exchange": stack_exchange,
    "shp": shp,
    "webgpt": webgpt,
    "summaries": summaries,
}
"""Those of two answers to a prompt."""

QUESTIONS: dict[str, Callable[[Row], Row]] = {"prompt": prompt, "user_turns": user_turns}
"""Those of what users ask, without answers of their own to train on."""

ANSWERED: dict[str, Callable[[Row], Row]] = {
    "messages": messages,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
}
"""Those of dialogues that end with an answer, told by their columns."""

UNPAIRED: dict[str, Callable[[Row], Row]] = {"unpaired_preference": unpaired_preference}
"""Those of one answer, and whether it is wanted."""

PICTURED: dict[str, Callable[[Row], Row]] = {"caption": caption, "vqa": question_answer}
"""Those of what is said about a picture, told by their columns."""

FORMATS: dict[str, Callable[[Row], Row]] = {
    **ANSWERED,
    **PICTURED,
    "text": text,
    "hh": hh,
    **PAIRS,
    **UNPAIRED,
    **QUESTIONS,
    "every_answer": every_answer,
}


def rows_of(name: str) -> str:
    """What a kind of stage calls rows in this format (`Kind.rows`): pairs, labelled answers, documents or
    conversations; or questions, which none trains on."""
    sorts = {"pairs": PAIRS, "labelled answers": UNPAIRED, "questions": QUESTIONS, "documents": ("text",)}
    return next((rows for rows, formats in sorts.items() if name in formats), "conversations")


HEEDED = {
    "alpaca": ("history", REASONING),
    "prompt_completion": (REASONING,),
    "shp": ("history",),
}
"""Columns that are refused, but not in these formats, which read them."""

FORMAT_COLUMNS = KINDS | {"conversations", "instruction", "output", "turns", "transcript"}
"""The columns that most formats are told by."""

SIGNATURES = (
    ("shp", {"history", "human_ref_A", "human_ref_B", "labels"}),
    ("webgpt", {"question", "answer_0", "answer_1", "score_0", "score_1"}),
    ("stack_exchange", {"question", "response_j", "response_k"}),
    ("stack_exchange", {"question", "answers", "qid"}),
    ("ultrafeedback", {"instruction", "completions"}),
    ("summaries", {"info", "summaries", "choice"}),
    ("caption", {"image", "caption"}),
    *(("vqa", {"image", "question", name}) for name in ("answer", "answers")),
)
"""Public data sets told by their own columns."""


def format_row(name: str, row: Row, columns: dict[str, str], *, pictures: bool = False) -> Row:
    """The row in the format `name`, after `columns` (ours: theirs) has given its columns our names. One with pictures
    is refused unless `pictures` are read; then they stand in the messages that ask about them."""
    row = read_columns(_rename_columns(row, columns) if columns else row)
    if name not in UNPAIRED:  # whose rows are checked as what they are without their label
        tables = (REFUSED,) if name in (*PAIRS, *QUESTIONS) else (REFUSED, REFUSED_WHERE_ANSWERS_ARE_TRAINED)
        check_columns(row, *tables, reads=(*HEEDED.get(name, ()), *(PICTURE_COLUMNS if pictures else ())))
    found = FORMATS[name](row)
    if pictures:
        return place_pictures(found)
    refuse_pictures(found)
    return found


def _rename_columns(row: Row, columns: dict[str, str]) -> Row:
    found = {ours: value_at(row, theirs) for ours, theirs in columns.items()}
    return {name: value for name, value in row.items() if name not in columns.values()} | found


def value_at(row: Row, path: str) -> Any:
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
    row = _rename_columns(row, columns) if columns else row
    has = {name for name, value in row.items() if value is not None}
    found = [name for name, columns_of_it in SIGNATURES if columns_of_it <= has]
    if "conversations" in has and isinstance(row.get("chosen"), dict) and isinstance(row.get("rejected"), dict):
        return "sharegpt_pairs"
    if {"chosen", "rejected"} <= has or {"chosen_messages", "rejected_messages"} <= has:
        found.append("hh_pairs" if is_transcript(row.get("chosen")) and "prompt" not in has else "preference")
    if "messages" in has or "conversations" in has:
        found.append(_detect_messages(row["messages" if "messages" in has else "conversations"]))
    if {"instruction", "output"} <= has:
        found.append("alpaca")
    if {"prompt", "completion"} <= has:
        found.append("prompt_completion")
    if not found:
        found = ["prompt"] if "prompt" in has else []
        if any(is_transcript(row.get(name)) for name in ("text", "transcript", "chosen")):
            found.append("hh")
        elif "text" in has:
            found.append("text")
        elif not found and _are_texts(row.get("turns")):
            found.append("user_turns")
    if len(found) == 1:
        has_label = found[0] in ANSWERED and any(is_label(row.get(name)) for name in LABEL_COLUMNS)
        return "unpaired_preference" if has_label else found[0]
    if found:
        raise BadRow(f"the row could be {either(found)}", "Say which one with format: ….")
    fix = f"Say it with format: … (one of {', '.join(FORMATS)}) and columns: {{ours: theirs}}."
    raise BadRow(f"cannot tell the format from the columns {', '.join(row) or '(none)'}", fix)


def _detect_messages(value: object) -> str:
    messages = [message for message in value if isinstance(message, dict)] if isinstance(value, list) else []
    if messages and "from" in messages[0]:
        return "sharegpt"
    roles = [role_of(message) for message in messages]
    return "user_turns" if roles.count("user") > 1 and set(roles) <= {"system", "user"} else "messages"


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
