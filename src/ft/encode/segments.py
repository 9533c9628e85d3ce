"""Where each message stands in the rendered text, and which characters of it an answer is.

A skeleton is the dialogue rendered with a unique word in place of every content. It shows the pieces of text that the
template writes before, between and after the contents, and where in these pieces an answer begins (where the prompt
to generate it ends) and ends (behind its end-of-turn token). The real text must then be exactly these pieces with the
contents between them. Where it is not, because the template looks into a content (Qwen3 takes the thinking out of
earlier answers), that content is put into the skeleton as it is, and looked up in its piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ft.data.formats.fields import CALLS, REASONING, BadRow, Message
from ft.encode.chat_template import WORD, ChatTemplate, Tools, word

Place = tuple[int, int]  # (piece, characters into it)
TemplateInputs = tuple[Tools, Mapping[str, Any] | None]
"""What a template gets beside the messages: tools, and variables of its own."""

NO_INPUTS: TemplateInputs = (None, None)

THINKING_FIX = "Train only the last answer (train_on: last), or give this message train: false."


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
    slots: tuple[int, ...]  # the part between pieces k and k + 1: 2n is message n's content, 2n + 1 its reasoning
    begins: dict[int, Place]
    ends: dict[int, Place]
    reasoning_dropped: frozenset[int] = frozenset()  # earlier answers whose reasoning the template leaves out by design


@dataclass(frozen=True)
class _WordedDialogue:
    """A dialogue of words instead of contents, and its rendering."""

    messages: list[Message]
    inputs: TemplateInputs
    pieces: tuple[str, ...]
    slots: tuple[int, ...]

    def first_slot(self, n: int) -> int | None:
        return next((k for k, slot in enumerate(self.slots) if slot // 2 == n), None)

    def last_slot(self, n: int) -> int | None:
        return next((k for k in reversed(range(len(self.slots))) if self.slots[k] // 2 == n), None)


class Segmenter:
    """Lays out dialogues under one template. Skeletons are cached by the roles of the dialogue."""

    CACHED = 4096

    def __init__(self, template: ChatTemplate):
        self.template = template
        self.skeletons: dict[object, Skeleton] = {}

    def layout(self, messages: Sequence[Message], inputs: TemplateInputs, text: str) -> Layout:
        """The layout of a dialogue and its text. Raises BadRow where the text drops or changes what a message says."""
        literal: frozenset[int] = frozenset()
        while True:
            skeleton = self._skeleton(messages, inputs, literal)
            begins = _begins(skeleton, messages, text)
            if isinstance(begins, list):
                return self._build_layout(messages, text, skeleton, begins)
            if begins in literal:
                raise _alteration(begins, messages[begins]["role"], "does not write the same way twice")
            literal |= {begins}

    # The skeleton

    def _skeleton(self, messages: Sequence[Message], inputs: TemplateInputs, literal: frozenset[int]) -> Skeleton:
        if literal:
            return self._build_skeleton(messages, inputs, literal)
        key = (repr(inputs), *[_shape(message) for message in messages])
        if not (skeleton := self.skeletons.get(key)):
            skeleton = self._build_skeleton(messages, inputs, literal)
            if len(self.skeletons) >= self.CACHED:
                self.skeletons.clear()
            self.skeletons[key] = skeleton
        return skeleton

    def _build_skeleton(self, messages: Sequence[Message], inputs: TemplateInputs, literal: frozenset[int]) -> Skeleton:
        worded = [message if n in literal else _with_words(n, message) for n, message in enumerate(messages)]
        text = self.template.text(worded, *inputs)
        self.template.check_tools(text, worded, *inputs)
        dialogue = _WordedDialogue(worded, inputs, *_pieces_and_slots(text))
        reasoning_dropped = self._check_parts(dialogue, literal)
        begins: dict[int, Place] = {}
        ends: dict[int, Place] = {}
        for n, message in enumerate(worded):
            if message["role"] == "assistant" and (begin := self._begin(dialogue, n)):
                begins[n] = begin
                if end := self._end(dialogue, n, begin):
                    ends[n] = end
        return Skeleton(dialogue.pieces, dialogue.slots, begins, ends, reasoning_dropped)

    def _check_parts(self, dialogue: _WordedDialogue, literal: frozenset[int]) -> frozenset[int]:
        """BadRow where the template drops or repeats a part; the answers whose reasoning it leaves out by design.

        A template may leave out the reasoning of earlier answers (Qwen3), so it is asked whether it writes that of the
        same answer where it is the last.
        """
        reasoning_dropped = set()
        for n, message in enumerate(dialogue.messages):
            if n in literal:
                continue
            times = dialogue.slots.count(2 * n) if message["content"] else 1
            if times == 0 or (times > 1 and message["role"] == "assistant"):
                raise _alteration(n, message["role"], "repeats" if times else "drops")
            if REASONING not in message or 2 * n + 1 in dialogue.slots:
                continue
            if word(2 * n + 1) not in self.template.text(dialogue.messages[: n + 1], *dialogue.inputs):
                fix = "Write it in the content as <think>…</think>, drop it, or use another chat template."
                raise _alteration(n, message["role"], "drops the reasoning of", fix)
            reasoning_dropped.add(n)
        return frozenset(reasoning_dropped)

    def _begin(self, dialogue: _WordedDialogue, n: int) -> Place | None:
        """Where the prompt for answer n ends."""
        if n == 0:
            return None
        try:
            prompt = WORD.split(self.template.text(dialogue.messages[:n], *dialogue.inputs, prompt=True))
        except BadRow:
            return None
        slot = dialogue.first_slot(n)
        piece = _after(dialogue.slots, n) if slot is None else slot
        before = dialogue.slots[piece - 1] if piece else None
        if (int(prompt[-2]) if len(prompt) > 1 else None) != before:
            return None
        length = self.template.common_prefix(prompt[-1], dialogue.pieces[piece])
        return (piece, length) if length else None

    def _end(self, dialogue: _WordedDialogue, n: int, begin: Place) -> Place | None:
        """Behind the token that ends answer n: what stands there when the answer is the last, or what follows it."""
        slot = dialogue.last_slot(n)
        piece, start = begin if slot is None else (slot + 1, 0)
        rest = dialogue.pieces[piece][start:]
        if n == len(dialogue.messages) - 1:
            end = self.template.last_added(rest)
            return (piece, start + end) if end else None
        # What a model writes is what stands there when the answer is the last; in the whole dialogue a header may
        # follow, or another end token (gpt-oss ends the last answer alone with <|return|>)
        as_last = WORD.split(self.template.text(dialogue.messages[: n + 1], *dialogue.inputs))[-1]
        if slot is None:
            end = self._end_without_slot(dialogue.messages[n], rest, as_last[start:])
            return (piece, start + end) if end else None
        shared = self.template.common_prefix(as_last, rest)
        end = self.template.last_added(rest[:shared])
        if CALLS in dialogue.messages[n]:
            end = self._end_of_call(rest, shared)
        elif not end and self.template.first_added(as_last):
            end = self.template.first_added(rest)  # gpt-oss: <|return|> at the very end, <|end|> before another turn
        return (piece, end) if end else None

    def _end_without_slot(self, message: Message, rest: str, as_last: str) -> int:
        """The end of an answer that stands in its piece as it is, not as a word: a call, or a text taken literally."""
        shared = self.template.common_prefix(as_last, rest) if CALLS in message else 0
        if shared and (end := self._end_of_call(rest, shared)):
            return end
        ends = [at + len(end) for end in self.turn_ends if (at := rest.find(end)) >= 0]
        return min(ends, default=0)

    def _end_of_call(self, rest: str, shared: int) -> int:
        """Behind the token that ends a call, which a tool's message follows. `rest` is its text from the call on,
        `shared` how much of it is the same where the call is the last message.

        A template without end tokens (GLM-4) stops by the header of whoever speaks next, here the tool.
        """
        if self.template.closing:
            return shared + self.template.first_added(rest[shared:])
        return self.template.last_added(rest[:shared])

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
        return self._skeleton([{"role": role, "content": "x"} for role in roles], NO_INPUTS, frozenset())

    # The text laid out along its skeleton

    def _build_layout(self, messages: Sequence[Message], text: str, skeleton: Skeleton, begins: list[int]) -> Layout:
        layout = Layout(text, [])
        contents = {
            slot // 2: (begins[k] + len(skeleton.pieces[k]), begins[k + 1])
            for k, slot in enumerate(skeleton.slots)
            if slot % 2 == 0
        }
        cursor = 0
        for n, message in enumerate(messages):
            if n not in contents:
                contents[n] = self._search_content(layout, messages, n, cursor, skeleton, begins)
                if REASONING in message and _squeezed_find(text, message[REASONING], 0, len(text)) is None:
                    raise _alteration(n, message["role"], "drops the reasoning of")
            if n in skeleton.reasoning_dropped:
                layout.shortened += (n,)
                layout.faults[n] = _alteration(n, message["role"], "leaves the thinking out of", THINKING_FIX)
            start, end = contents[n]
            if message["role"] == "assistant":
                span = self._answer(layout, n, skeleton, begins, (start, end))
                _check_calls(message, n, text[span.start : span.end])
            else:
                span = Span(start, end, message["role"])
            layout.spans.append(span)
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
            layout.faults[n] = _alteration(n, role, "leaves the thinking out of", THINKING_FIX)
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


def _shape(message: Message) -> object:
    """What of a message decides its skeleton: all but the text of its content and its reasoning."""
    others = {key: value for key, value in message.items() if key not in ("role", "content", REASONING)}
    return message["role"], not message["content"], REASONING in message, repr(others) if others else ""


def _with_words(n: int, message: Message) -> Message:
    """The message with words for its content and its reasoning."""
    worded = {**message, "content": word(2 * n)} if message["content"] else dict(message)
    return worded | {REASONING: word(2 * n + 1)} if REASONING in message else worded


def _pieces_and_slots(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    parts = WORD.split(text)
    return tuple(parts[::2]), tuple(map(int, parts[1::2]))


def _part(messages: Sequence[Message], slot: int) -> str:
    text: str = messages[slot // 2][REASONING if slot % 2 else "content"]
    return text


def _check_calls(message: Message, n: int, text: str) -> None:
    """Every call of the message is in its text: some templates write the first of several."""
    for call in message.get(CALLS, ()):
        if call["function"]["name"] not in text:
            raise _alteration(n, "assistant", f"drops the call of {call['function']['name']!r} in")


def _after(slots: Sequence[int], n: int) -> int:
    """The piece that holds message n, which has no slot: the one behind the last slot of an earlier message."""
    return max((k + 1 for k, slot in enumerate(slots) if slot // 2 < n), default=0)


def _begins(skeleton: Skeleton, messages: Sequence[Message], text: str) -> list[int] | int:
    """Where each piece begins in the text, or the message that the template treats in a way of its own."""
    pieces, slots = skeleton.pieces, skeleton.slots
    begins, at = [0], len(pieces[0])
    # Texts must be followed piece by piece: to search a content in the text could find what an earlier message quotes
    if not text.startswith(pieces[0]) or (not slots and at < len(text)):
        return slots[0] // 2 if slots else 0
    for k, slot in enumerate(slots):
        content, after = _part(messages, slot), pieces[k + 1]
        fitting = [form for form in _forms(content) if text.startswith(form, at)]
        length = next((len(form) for form in fitting if text.startswith(after, at + len(form))), None)
        if length is None:
            return (slots[k + 1] if fitting and k + 1 < len(slots) else slot) // 2
        begins.append(at + length)
        at += length + len(after)
    return begins if at == len(text) else slots[-1] // 2


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
