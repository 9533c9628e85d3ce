"""Where each message stands in the rendered text, and which characters of it an answer is.

A skeleton is the dialogue rendered with a unique word in place of every content. It shows the pieces of text that the
template writes before, between and after the contents, and where in these pieces an answer begins (where the prompt
to generate it ends) and ends (behind its end-of-turn token). The real text must then be exactly these pieces with the
contents between them. Where it is not, because the template looks into a content (Qwen3 takes the thinking out of
earlier answers), that content is put into the skeleton as it is, and looked up in its piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ft.data.formats import BadRow
from ft.encode.chat_template import WORD, ChatTemplate, Message, word

Place = tuple[int, int]  # (piece, characters into it)


@dataclass(frozen=True)
class Span:
    """Characters start to end of the text, said by `role`; of an answer, from the prompt's end to its own end."""

    start: int
    end: int
    role: str


@dataclass
class Layout:
    """A dialogue's text and the span of each message. `faults` says of an answer why it cannot be trained."""

    text: str
    spans: list[Span]
    faults: dict[int, BadRow] = field(default_factory=dict)
    shortened: tuple[int, ...] = ()


@dataclass(frozen=True)
class Skeleton:
    pieces: tuple[str, ...]
    slots: tuple[int, ...]  # slots[k] is the message between pieces k and k + 1
    begins: dict[int, Place]
    ends: dict[int, Place]


@dataclass(frozen=True)
class _WordedDialogue:
    """A dialogue of words instead of contents, and its rendering."""

    messages: list[Message]
    tools: Any
    pieces: tuple[str, ...]
    slots: tuple[int, ...]


class Segmenter:
    """Lays out dialogues under one template. Skeletons are kept by the roles of the dialogue."""

    CACHED = 4096

    def __init__(self, template: ChatTemplate):
        self.template = template
        self.skeletons: dict[Any, Skeleton] = {}

    def layout(self, messages: Sequence[Message], tools: Any, text: str) -> Layout:
        """The layout of a dialogue and its text. Raises BadRow where the text drops or changes what a message says."""
        literal: frozenset[int] = frozenset()
        while True:
            skeleton = self._skeleton(messages, tools, literal)
            begins = _begins(skeleton, messages, text)
            if isinstance(begins, list):
                return self._build_layout(messages, text, skeleton, begins)
            if begins in literal:
                raise _alteration(begins, messages[begins]["role"], "does not write the same way twice")
            literal |= {begins}

    # The skeleton

    def _skeleton(self, messages: Sequence[Message], tools: Any, literal: frozenset[int]) -> Skeleton:
        if literal:
            return self._build_skeleton(messages, tools, literal)
        key = (repr(tools), *[(message["role"], not message["content"]) for message in messages])
        if not (skeleton := self.skeletons.get(key)):
            skeleton = self._build_skeleton(messages, tools, literal)
            if len(self.skeletons) >= self.CACHED:
                self.skeletons.clear()
            self.skeletons[key] = skeleton
        return skeleton

    def _build_skeleton(self, messages: Sequence[Message], tools: Any, literal: frozenset[int]) -> Skeleton:
        worded = [
            message if n in literal or not message["content"] else {**message, "content": word(n)}
            for n, message in enumerate(messages)
        ]
        parts = WORD.split(self.template.text(worded, tools))
        worded_dialogue = _WordedDialogue(worded, tools, tuple(parts[::2]), tuple(map(int, parts[1::2])))
        for n, message in enumerate(worded):
            times = worded_dialogue.slots.count(n)
            if message is not messages[n] and (times == 0 or (times > 1 and message["role"] == "assistant")):
                raise _alteration(n, message["role"], "repeats" if times else "drops")
        begins: dict[int, Place] = {}
        ends: dict[int, Place] = {}
        for n, message in enumerate(worded):
            if message["role"] == "assistant" and (begin := self._begin(worded_dialogue, n)):
                begins[n] = begin
                if end := self._end(worded_dialogue, n, begin):
                    ends[n] = end
        return Skeleton(worded_dialogue.pieces, worded_dialogue.slots, begins, ends)

    def _begin(self, worded_dialogue: _WordedDialogue, n: int) -> Place | None:
        """Where the prompt for answer n ends."""
        if n == 0:
            return None
        try:
            prompt = WORD.split(self.template.text(worded_dialogue.messages[:n], worded_dialogue.tools, prompt=True))
        except BadRow:
            return None
        piece = worded_dialogue.slots.index(n) if n in worded_dialogue.slots else _after(worded_dialogue.slots, n)
        before = worded_dialogue.slots[piece - 1] if piece else None
        if (int(prompt[-2]) if len(prompt) > 1 else None) != before:
            return None
        length = self.template.common_prefix(prompt[-1], worded_dialogue.pieces[piece])
        return (piece, length) if length else None

    def _end(self, worded_dialogue: _WordedDialogue, n: int, begin: Place) -> Place | None:
        """Behind the token that ends answer n: what stands there when the answer is the last, or what follows it."""
        slotted = n in worded_dialogue.slots
        piece, start = (worded_dialogue.slots.index(n) + 1, 0) if slotted else begin
        rest = worded_dialogue.pieces[piece][start:]
        if n == len(worded_dialogue.messages) - 1:
            end = self.template.last_added(rest)
            return (piece, start + end) if end else None
        if not slotted:
            end = self._end_in_piece(rest)
            return (piece, start + end) if end else None
        as_last = WORD.split(self.template.text(worded_dialogue.messages[: n + 1], worded_dialogue.tools))[-1]
        end = self.template.last_added(rest[: self.template.common_prefix(as_last, rest)])
        if not end and self.template.first_added(as_last):
            end = self.template.first_added(rest)  # gpt-oss: <|return|> at the very end, <|end|> before another turn
        return (piece, end) if end else None

    def _end_in_piece(self, rest: str) -> int:
        """The end of an answer that stands in its piece as it is, so not as a word: behind its end-of-turn token."""
        found = [at + len(end) for end in self.turn_ends if (at := rest.find(end)) >= 0]
        return min(found, default=0)

    @property
    def turn_ends(self) -> list[str]:
        """The tokens that end an answer, as text: of an answer followed by another turn, and of the last one."""
        skeleton = self.canonical
        ends = []
        for n in (1, 3):
            if n in skeleton.ends:
                piece, offset = skeleton.ends[n]
                _, start, end = next(t for t in self.template.tokens(skeleton.pieces[piece]) if t[2] == offset)
                ends.append(skeleton.pieces[piece][start:end].strip())
        return list(dict.fromkeys(ends))

    @property
    def canonical(self) -> Skeleton:
        """The skeleton of user, answer, user, answer."""
        roles = ("user", "assistant") * 2
        return self._skeleton([{"role": role, "content": "x"} for role in roles], None, frozenset())

    # The text laid out along its skeleton

    def _build_layout(self, messages: Sequence[Message], text: str, skeleton: Skeleton, begins: list[int]) -> Layout:
        layout = Layout(text, [])
        contents = {
            n: (begins[k] + len(skeleton.pieces[k]), begins[k + 1]) for k, n in enumerate(skeleton.slots)
        }  # fmt: skip
        cursor = 0
        for n, message in enumerate(messages):
            if n not in contents:
                contents[n] = self._search_content(layout, messages, n, cursor, skeleton, begins)
            start, end = contents[n]
            if message["role"] == "assistant":
                layout.spans.append(self._answer(layout, n, skeleton, begins, (start, end)))
            else:
                layout.spans.append(Span(start, end, message["role"]))
            cursor = max(cursor, end)
        return layout

    def _search_content(
        self, layout: Layout, messages: Sequence[Message], n: int, cursor: int, skeleton: Skeleton, begins: list[int]
    ) -> tuple[int, int]:
        """Where a content without a slot stands: whitespace may differ, and an old answer may lack its thinking."""
        piece = _after(skeleton.slots, n)
        content, role = messages[n]["content"], messages[n]["role"]
        low = max(cursor, begins[piece])
        high = begins[piece] + len(skeleton.pieces[piece])
        if not content.strip():
            return low, low
        if found := _squeezed_find(layout.text, content, low, high):
            return found
        answer = content.rpartition("</think>")[2]
        if role == "assistant" and answer != content and (found := _squeezed_find(layout.text, answer, low, high)):
            layout.shortened += (n,)
            fix = "Train only the last answer (train_on: last), or give this message train: false."
            layout.faults[n] = _alteration(n, role, "leaves the thinking out of", fix)
            return found
        raise _alteration(n, role, "drops or changes")

    def _answer(
        self,
        layout: Layout,
        n: int,
        skeleton: Skeleton,
        begins: list[int],
        content: tuple[int, int],
    ) -> Span:
        """From where its prompt ends to behind its end-of-turn token; only its content where that cannot be told."""
        begin, end = skeleton.begins.get(n), skeleton.ends.get(n)
        if begin is None or end is None:
            layout.faults.setdefault(n, _untrainable(n, begin is None))
        start = content[0] if begin is None else begins[begin[0]] + begin[1]
        stop = content[1] if end is None else begins[end[0]] + end[1]
        return Span(start, max(stop, content[1]), "assistant")


def _after(slots: Sequence[int], n: int) -> int:
    """The piece that holds message n, which has no slot: the one behind the last slot of an earlier message."""
    return max((k + 1 for k, slot in enumerate(slots) if slot < n), default=0)


def _begins(skeleton: Skeleton, messages: Sequence[Message], text: str) -> list[int] | int:
    """Where each piece begins in the text, or the message that the template treats in a way of its own."""
    pieces, slots = skeleton.pieces, skeleton.slots
    begins, at = [0], len(pieces[0])
    if not text.startswith(pieces[0]) or (not slots and at < len(text)):
        return slots[0] if slots else 0
    for k, n in enumerate(slots):
        content, after = messages[n]["content"], pieces[k + 1]
        fitting = [form for form in _forms(content) if text.startswith(form, at)]
        length = next((len(form) for form in fitting if text.startswith(after, at + len(form))), None)
        if length is None:
            return slots[k + 1] if fitting and k + 1 < len(slots) else n
        begins.append(at + length)
        at += length + len(after)
    return begins if at == len(text) else slots[-1]


def _forms(content: str) -> list[str]:
    """A content as templates write it: as it is, or without whitespace at its ends."""
    bare = content.strip()
    if bare == content:
        return [content]
    forms = (content, bare, content.lstrip(), content.rstrip(), content.strip("\n"), content.lstrip("\n"))
    return list(dict.fromkeys((*forms, content.rstrip("\n"))))


def _squeezed_find(text: str, content: str, low: int, high: int) -> tuple[int, int] | None:
    """Where content stands in text[low:high], whatever the whitespace in either."""
    printed = [at for at in range(low, high) if not text[at].isspace()]
    characters = "".join(content.split())
    at = "".join(text[place] for place in printed).find(characters)
    return None if at < 0 else (printed[at], printed[at + len(characters) - 1] + 1)


def _alteration(n: int, role: str, does: str, fix: str = "Change the message, or use another chat template.") -> BadRow:
    return BadRow(f"the chat template {does} message {n + 1} ({role})", fix)


def _untrainable(n: int, at_start: bool) -> BadRow:
    if n == 0:
        return BadRow("message 1 is an answer with no prompt before it", "Give that message train: false.")
    part = "begins" if at_start else "ends"
    return BadRow(
        f"cannot tell where message {n + 1} (assistant) {part} under this chat template", "Use train_on: last."
    )
