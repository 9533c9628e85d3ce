"""Prompts to be answered, answers that were sampled, and the rows made of the best of them: plain values, no model.

A row written here carries `sampled`, where its answer is from. A row that has it is read as an answer of an earlier
round; every other row is a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft.data.formats.columns import KINDS
from ft.data.formats.fields import CALLS, IMAGES, OF_A_TOOL, TOOLS, VARIABLES, BadRow, Message, Row, read_columns
from ft.data.formats.messages import require_question, words
from ft.data.selection import best, pair
from ft.data.sources.files import SourceRow
from ft.files import digest, finite_or_none

SIDES = ("chosen", "rejected")
ORIGIN = ("policy", "round", "k", "temperature", "top_p", "seed")
OF_A_PAIR = ("margin", *(f"{what}_{side}" for what in ("source", "temperature") for side in SIDES))


@dataclass(frozen=True)
class Prompt:
    """What is asked, and with which `tools`; `columns` is what else the row holds. What is asked decides the `key`."""

    key: str
    where: str
    messages: Sequence[Message]
    columns: Mapping[str, Any]
    tools: list[Any] | None = None

    @property
    def variables(self) -> Mapping[str, Any] | None:
        """What the row says to its chat template, such as {"enable_thinking": False}."""
        return self.columns.get(VARIABLES)


@dataclass(frozen=True)
class Sample:
    """One answer to a prompt. `origin` says where it is from, by the names in ORIGIN."""

    prompt: Prompt
    text: str
    origin: Mapping[str, Any]
    score: float = 0.0
    parts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> str:
        origin = [str(self.origin[name]) for name in ("policy", "round", "temperature", "k")]
        return "/".join((self.prompt.key, *origin))

    @property
    def conversation(self) -> list[Message]:
        return [*self.prompt.messages, *_answer_messages(self)]

    def record(self) -> dict[str, Any]:
        return {**self.origin, "score": self.score, "scores": dict(self.parts)}


def prompt_in(source_row: SourceRow, *, with_tools: bool = False, with_variables: bool = True) -> Prompt:
    """The prompt of a row of any kind: what stands before its last answer. Raises BadRow.

    Tools, calls and what a tool found are read `with_tools`, and what the row says to its chat template
    `with_variables`; else they are refused.
    """
    row = source_row.row
    if "text" in row:
        raise BadRow("a plain text asks nothing", "Rows to sample for have a prompt, or messages.")
    for column, is_read in ((TOOLS, with_tools), (VARIABLES, with_variables)):
        if row.get(column) and not is_read:
            raise BadRow(f"the row has {column}", "Answers are sampled without any: drop the row.")
    if not with_tools and any(CALLS in message for message in row.get("prompt") or row["messages"]):
        raise BadRow("the dialogue has tool calls", "Answers are sampled without tools: drop the row.")
    messages = row["prompt"] if "prompt" in row else _before_answer(row["messages"])
    messages = [_as_asked(message) for message in messages]
    if messages[-1]["role"] not in (("user", "tool") if with_tools else ("user",)):
        what = f"the prompt ends with a message of the {messages[-1]['role']}"
        raise BadRow(what, "What is answered is what a user says last: drop the row.")
    columns = {name: finite_or_none(value) for name, value in row.items() if name not in KINDS}  # Parquet's absent: NaN
    given = read_columns({name: row[name] for name in (TOOLS, VARIABLES) if name in row})
    columns = {name: value for name, value in columns.items() if name != VARIABLES}
    columns |= {name: value for name, value in given.items() if name == VARIABLES}
    asked = [words(messages), *given.values()] if given else words(messages)
    return Prompt(digest(asked, 16), source_row.where, messages, columns, given.get(TOOLS))


def _as_asked(message: Message) -> Message:
    keys = ("role", "content", *({"assistant": (CALLS,), "tool": OF_A_TOOL}.get(message["role"], (IMAGES,))))
    return {key: message[key] for key in keys if key in message}


def check_prompt(row: Row) -> Prompt:
    """What a formatted row asks. Raises BadRow where that is nothing."""
    return prompt_in(SourceRow("", row))


def _before_answer(messages: Sequence[Message]) -> list[Message]:
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise BadRow("the dialogue has no answer, so nothing stands before one", "Write what is asked as `prompt`.")
    return require_question(list(messages[: answers[-1]]), "what stands before the last answer ends")


def is_earlier(row: Row) -> bool:
    """Whether the row brings an answer of an earlier round."""
    return isinstance(row.get("sampled"), Mapping)


def earlier(source_row: SourceRow) -> list[Sample]:
    """The answer of an earlier round, or the two of a pair, with the prompt they were given to. Raises BadRow."""
    found, row = prompt_in(source_row), source_row.row
    columns = {name: value for name, value in found.columns.items() if name not in ("sampled", *OF_A_PAIR)}
    prompt = Prompt(found.key, found.where, found.messages, columns)
    sides = (
        {"completion": row["sampled"]} if "completion" in row else {side: row["sampled"].get(side) for side in SIDES}
    )
    try:
        return [Sample(prompt, row[side][-1]["content"], _origin_of(origin)) for side, origin in sides.items()]
    except (KeyError, TypeError) as error:
        fix = "Read the rows as the sample stage left them."
        raise BadRow("column sampled does not tell where the row's answers are from", fix) from error


def _origin_of(origin: Mapping[str, Any]) -> dict[str, Any]:
    return {name: origin[name] for name in ORIGIN}


def best_row(samples: Sequence[Sample]) -> Row:
    """The best answer to a prompt, as a row to fine-tune on."""
    return _answer_row(samples[best([sample.score for sample in samples])], len(samples))


def answer_rows(samples: Sequence[Sample]) -> list[Row | None]:
    """Every answer to a prompt, a row each."""
    return [_answer_row(one, len(samples)) for one in samples]


def _answer_row(one: Sample, of: int) -> Row:
    return {
        **one.prompt.columns,
        "prompt": list(one.prompt.messages),
        "completion": _answer_messages(one),
        "sampled": {**one.record(), "of": of},
    }


def pair_row(samples: Sequence[Sample]) -> Row | None:
    """The best and the worst answer to a prompt, as a row of preferences; None where all are worth the same."""
    places = pair([sample.score for sample in samples])
    if places is None:
        return None
    sides = dict(zip(SIDES, (samples[place] for place in places), strict=True))
    chosen, rejected = sides.values()
    row: Row = {**chosen.prompt.columns, "prompt": list(chosen.prompt.messages)}
    row |= {side: _answer_messages(one) for side, one in sides.items()}
    row |= {"margin": chosen.score - rejected.score}
    row |= {f"source_{side}": one.origin["policy"] for side, one in sides.items()}
    row |= {f"temperature_{side}": one.origin["temperature"] for side, one in sides.items()}
    return row | {"sampled": {side: {**one.record(), "of": len(samples)} for side, one in sides.items()}}


def _answer_messages(one: Sample) -> list[Message]:
    return [{"role": "assistant", "content": one.text}]
