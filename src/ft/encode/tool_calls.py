"""The calls in what a model wrote, read by its chat template's own notation.

transformers reads them (`parse_response`), told by a response template where a call begins, how its arguments are
written and where it ends. The tokenizer may bring one; TRL has one for every chat template that it knows letter by
letter; else it is learnt here from what the template makes of calls of unique words, which is enough for calls that
are JSON. Whichever it is has to give back the calls that the chat template wrote, or calls are not read at all.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from ft.data.formats.fields import CALLS, BadRow, Message, Row, read_calls
from ft.encode.chat_template import WHERE, ChatTemplate, Tools, word
from ft.errors import fail

ResponseTemplate = Mapping[str, Any]


class ParsedAnswer(NamedTuple):
    """An answer's text without its calls, and the calls in OpenAI's form, their arguments as an object."""

    content: str
    calls: list[Row]


class CallReader:
    """Reads answers under one chat template. Raises UserError where it writes no calls, or none that can be read."""

    def __init__(self, chat: ChatTemplate):
        if chat.calls is None:
            raise fail(WHERE, "it writes no tool calls", "Use a template that does.")
        self.response_template = _response_template(chat)

    def read(self, prompt: str, answer: str, tools: Tools = None) -> ParsedAnswer:
        """What the model wrote behind the prompt, special tokens included. BadRow where a call in it is broken."""
        return _read(self.response_template, prompt, answer, tools)


def _read(template: ResponseTemplate, prompt: str, answer: str, tools: Tools) -> ParsedAnswer:
    from transformers.utils.chat_parsing import parse_response

    functions = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools or ()]
    try:
        message = parse_response(answer, dict(template), prefix=prompt, tools=functions)
    except (ValueError, KeyError) as error:
        raise BadRow(f"a call in the answer cannot be read: {str(error).splitlines()[0]}") from error
    calls = read_calls(message[CALLS], "the answer") if message.get(CALLS) else []
    return ParsedAnswer(str(message.get("content") or "").strip(), calls)


# Which response template reads the calls of a chat template


def _response_template(chat: ChatTemplate) -> ResponseTemplate:
    written = _samples(chat)
    for template in _candidates(chat):
        if all(_gives_back(template, sample) for sample in written):
            return template
    what = "what a model writes as a tool call under it cannot be read back"
    raise fail(WHERE, what, "Give the tokenizer a response_template, which transformers' parse_response reads.")


def _candidates(chat: ChatTemplate) -> Iterator[ResponseTemplate]:
    from trl.chat_template_utils import add_response_schema

    if own := getattr(chat.tokenizer, "response_template", None):
        yield own
    tokenizer: Any = copy.copy(chat.tokenizer)  # it writes into the tokenizer, which may be saved
    try:
        yield add_response_schema(tokenizer).response_template
    except ValueError:  # a template that TRL does not know
        yield from learn_response_templates(chat)


def _samples(chat: ChatTemplate) -> list[_Sample]:
    """An answer with one call and, where the template writes both, one with two: Llama 3.1 refuses two, gpt-oss leaves
    the second out."""
    return [sample for count in (1, 2) if (sample := _Sample.of(chat, count))]


def _gives_back(template: ResponseTemplate, sample: _Sample) -> bool:
    try:
        return _read(template, sample.prompt, sample.answer, sample.tools).calls == sample.calls
    except BadRow:
        return False


class _Sample(NamedTuple):
    """Calls of unique words, and the answer that the template makes of them."""

    prompt: str
    answer: str
    tools: list[Row]
    calls: list[Row]

    @staticmethod
    def of(chat: ChatTemplate, count: int) -> _Sample | None:
        calls: list[Row] = []
        tools: list[Row] = []
        for name, key, value in [[word(3 * n + part) for part in (2, 3, 4)] for n in range(count)]:
            calls.append({"type": "function", "function": {"name": name, "arguments": {key: value, "n": 7}}})
            properties = {key: {"type": "string", "description": key}, "n": {"type": "integer", "description": "n"}}
            schema = {"type": "object", "properties": properties}
            tools.append({"type": "function", "function": {"name": name, "description": name, "parameters": schema}})
        messages: list[Message] = [{"role": "user", "content": word(1)}]
        try:
            prompt = chat.text(messages, tools, prompt=True)
            text = chat.text([*messages, {"role": "assistant", "content": "", CALLS: calls}], tools)
        except BadRow:
            return None
        answer = text[chat.common_prefix(prompt, text) :]
        whole = all(call["function"]["name"] in answer for call in calls)
        return _Sample(prompt, answer, tools, calls) if whole else None


# Learning the notation of calls in JSON


class _Place(NamedTuple):
    """Where a call stands in an answer, and how what stands there becomes a call in OpenAI's form.

    `between` parts name and arguments where these alone are JSON; None where the whole call is.
    """

    start: int
    end: int
    between: str | None
    function: Row


def learn_response_templates(chat: ChatTemplate) -> Iterator[ResponseTemplate]:
    """For calls that are JSON as a whole, and for those whose arguments alone are; none where no call is."""
    written = _samples(chat)
    said = [{"role": "user", "content": word(1)}, {"role": "assistant", "content": word(2)}]
    end = chat.text(said).rpartition(word(2))[2].strip()
    content = {"content": "text", **({"close": end} if end else {})}
    for locate in (_whole_call, _name_and_arguments):
        places = [[locate(sample.answer, call["function"]) for call in sample.calls] for sample in written]
        field = _field([sample.answer for sample in written], [[one for one in found if one] for found in places])
        if field:  # the answer begins behind the prompt's end, whatever that is: a question, or what a tool found
            yield {"start_anchor_pattern": r"\Z", "fields": {CALLS: field, "content": content}}


def _whole_call(answer: str, function: Row) -> _Place | None:
    """A JSON object that holds the name and the arguments, under whatever keys."""
    start = answer.find(function["name"])
    while (start := answer.rfind("{", 0, start)) >= 0:
        value, end = _json_at(answer, start)
        keys = {part: key for part in function for key, held in (value or {}).items() if held == function[part]}
        if len(keys) == len(function):
            return _Place(start, end, None, {part: f"{{content.{key}}}" for part, key in keys.items()})
        if start == 0:
            break
    return None


def _name_and_arguments(answer: str, function: Row) -> _Place | None:
    """A name, and behind it the arguments as a JSON object."""
    start = answer.find(function["name"])
    arguments = answer.find("{", start)
    value, end = _json_at(answer, arguments)
    if start < 0 or value != function["arguments"]:
        return None
    between = answer[start + len(function["name"]) : arguments]
    return _Place(start, end, between, {"name": "{name}", "arguments": "{content}"})


def _json_at(text: str, start: int) -> tuple[Row | None, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None, start
    return (value, end) if isinstance(value, dict) else (None, start)


def _field(answers: Sequence[str], places: Sequence[Sequence[_Place]]) -> Row | None:
    """What opens and closes a call: what stands around one, and between two of them as well."""
    if not places[0]:
        return None
    first = places[0][0]
    opening, closing = answers[0][: first.start], answers[0][first.end :]
    if len(answers) > 1 and len(places[1]) > 1:
        gap = answers[1][places[1][0].end : places[1][1].start]
        opening = _common_beginning(opening[::-1], gap[::-1])[::-1]
        closing = _common_beginning(closing, gap.removesuffix(opening))
    opening, closing = opening.strip(), closing.strip()
    if first.between is None and not opening and answers[0][: first.start].rstrip().endswith("["):
        return _list_of_calls(answers[0], first)
    if not opening or not closing:
        return None
    pattern = re.escape(opening)
    if first.between is not None:
        pattern += rf"(?P<name>[^\s\"'<>]+?){re.escape(first.between)}(?=\{{)"
    transform = {"type": "function", "function": first.function}
    return {"open_pattern": pattern, "close": closing, "content": "json", "repeats": True, "transform": transform}


def _common_beginning(one: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in pairs)


def _list_of_calls(answer: str, call: _Place) -> Row | None:
    """All calls of an answer in one JSON list behind a mark, as Mistral writes them."""
    opening, closing = answer[: call.start].rstrip(" \n[").strip(), answer[call.end :].partition("]")[2].strip()
    function = {part: path.replace("content.", "") for part, path in call.function.items()}
    field = {"open": opening, "close": closing, "content": "json", "transform_each": True}
    return field | {"transform": {"type": "function", "function": function}} if opening and closing else None
