"""A chat template as a tool: the text it renders, how it ends an answer, what in a message would forge a turn.

Nothing here knows a template by name. What a template does is learnt by rendering dialogues whose contents are unique
words (`word`), and looking at what stands between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft.data.formats.fields import CALLS, DEVELOPER, OF_A_TOOL, REASONING, REASONING_KEYS, BadRow, Message
from ft.encode.render_limits import check_length, limits
from ft.errors import UserError, fail

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = list[Any] | None
"""Functions that a model may call, as JSON schemas in OpenAI's form."""

SHIPPED = Path(__file__).parent.parent / "templates"
WHERE = "chat template"
TAG = re.compile(r"\[/?[A-Z][A-Z_]*\]|<</?[A-Z]+>>|<\|[^<>|\s]+\|>|<｜[^<>｜\s]+｜>")
HEADER = re.compile(r"\n\W*\w[^\n]*[:#\]>*]\Z")
"""A line of plain text that marks a role, such as `\\nUser:` or `\\n### Response:`."""


def template(name_or_path_or_text: str) -> str:
    """The Jinja text of a shipped template's name, of a .jinja file, or of the text itself."""
    name = name_or_path_or_text
    if "{{" in name or "{%" in name:
        return name
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.jinja"))}
    path = shipped.get(name, Path(name))
    if name not in shipped and path.suffix not in (".jinja", ".j2"):
        names = ", ".join(shipped)
        raise fail("chat_template", f"no template {name!r}", f"There are: {names}; or name a .jinja file.")
    if path.exists() and not path.is_file():  # a pipe would be read for ever
        raise fail("chat_template", f"{name} is no file", "Name a .jinja file.")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise fail("chat_template", f"{name}: {error.strerror}", f"Shipped are: {', '.join(shipped)}.") from error
    except UnicodeDecodeError as error:
        raise fail("chat_template", f"{name} is not UTF-8 text", "Save it as UTF-8.") from error


def word(number: int) -> str:
    """A content that no template changes and no text holds by chance."""
    return f"qZx{number:04d}xZq"


WORD = re.compile(r"qZx(\d{4})xZq")


class CallNotation(NamedTuple):
    """How a template wants a call: arguments as an object or as its JSON text, and a content of "" or none."""

    as_text: bool
    no_content: str | None


class ChatTemplate:
    """A tokenizer and its template. Raises UserError where no model could be trained with the pair."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not getattr(tokenizer, "is_fast", False):
            raise fail(
                "tokenizer", "it is a slow one, which cannot say where a token stands in the text", "Convert it."
            )
        if not tokenizer.chat_template:
            names = ", ".join(path.stem for path in sorted(SHIPPED.glob("*.jinja")))
            raise fail("tokenizer", "it has no chat template", f"Name one in chat_template: {names}; or a .jinja file.")
        self.tokenizer = tokenizer
        self.added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        self.blocks = False
        self.closing = ""
        self.blocks = self._wants_blocks()
        self.closing = self._closing()
        bos = tokenizer.bos_token or ""
        if bos and bos != tokenizer.eos_token and bos * 2 in self.text(_dialogue(4)):
            raise fail(WHERE, f"it writes {bos} twice in a row", "Write bos_token once.")

    def text(
        self,
        messages: Sequence[Message],
        tools: Tools = None,
        variables: Mapping[str, Any] | None = None,
        *,
        prompt: bool = False,
    ) -> str:
        """The dialogue as text; `prompt` ends it where the model is to go on. BadRow where the template refuses.

        `variables` are the template's own, such as `enable_thinking`.
        """
        try:
            return self._texts([messages], tools, prompt, variables)[0]
        except (BadRow, UserError):  # told of already, or the template's own fault, whatever the row
            raise
        except Exception as error:  # a template is a program: it may raise anything
            raise BadRow(f"the chat template refuses it: {error}") from error

    def check_tools(
        self,
        text: str,
        messages: Sequence[Message],
        tools: Tools,
        variables: Mapping[str, Any] | None = None,
        *,
        prompt: bool = False,
    ) -> None:
        """BadRow where the text, made by `text` of the same, says nothing of the tools."""
        if tools and text == self.text(messages, None, variables, prompt=prompt):
            fix = "Use a template that writes tools, or rename the column with columns: {their_tools: tools}."
            raise BadRow("the chat template writes no tools, and the row has some", fix)

    def texts(self, dialogues: Sequence[Sequence[Message]]) -> list[str | BadRow]:
        """The text of each dialogue, in one call, which is faster; or why the template refuses it."""
        if not dialogues:
            return []
        try:
            return list(self._texts(dialogues, None, False))
        except UserError:
            raise
        except Exception:  # one of them, which the others shall not suffer for
            return [self._text_or_refusal(messages) for messages in dialogues]

    def _text_or_refusal(self, messages: Sequence[Message]) -> str | BadRow:
        try:
            return self.text(messages)
        except BadRow as refusal:
            return refusal

    def _render(self, conversations: list[list[Message]], tools: Tools, **variables: Any) -> list[str]:
        """What the template writes, within the limits of time, memory and length that any template has."""
        characters = len(str(conversations)) + len(str(tools))
        with limits(characters):
            rendered = self.tokenizer.apply_chat_template(conversations, tools=tools, tokenize=False, **variables)
        texts = [str(text) for text in rendered]
        for text in texts:
            check_length(text, characters)
        return texts

    def _texts(
        self,
        dialogues: Sequence[Sequence[Message]],
        tools: Tools,
        prompt: bool,
        variables: Mapping[str, Any] | None = None,
    ) -> list[str]:
        conversations = [[self._as_template_reads(message) for message in messages] for messages in dialogues]
        texts = self._render(conversations, tools, add_generation_prompt=prompt, **(variables or {}))
        if not self.closing or prompt:
            return texts
        answered = (messages[-1]["role"] == "assistant" for messages in dialogues)
        return [text + self.closing if last else text for text, last in zip(texts, answered, strict=True)]

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of each token of a piece of text."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [
            (id, *span) for id, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]  # fmt: skip

    def common_prefix(self, one: str, other: str) -> int:
        """How many characters two texts begin with in common, in whole tokens."""
        if other.startswith(one):
            return len(one)
        end = 0
        for (id, _, stop), (other_id, _, other_stop) in zip(self.tokens(one), self.tokens(other), strict=False):
            if id != other_id or stop != other_stop:
                break
            end = stop
        return end

    def first_added(self, text: str) -> int:
        """Where the added token ends that the text begins with, whitespace apart; 0 if it begins otherwise."""
        for id, start, end in self.tokens(text):
            if text[start:end].strip():
                return end if self._is_added(id, text[start:end]) else 0
        return 0

    def last_added(self, text: str) -> int:
        """Where the last added token of the text ends; 0 if there is none."""
        return max((end for id, start, end in self.tokens(text) if self._is_added(id, text[start:end])), default=0)

    def _is_added(self, id: int, text: str) -> bool:
        """Whether a token is an added one, spelt out: <unk> and byte tokens are added too, but stand for other text."""
        return bool(text.strip()) and self.added.get(id, "").strip() == text.strip()

    @cached_property
    def forging(self) -> re.Pattern[str]:
        """What no message may hold: special tokens, and whatever else marks a turn in this template."""
        headers, cues = self._pieces()
        marks = _special(self.tokenizer) | {tag for piece in headers + cues for tag in TAG.findall(piece)}
        for header in headers:
            tokens = [(id, header[start:end]) for id, start, end in self.tokens(header)]
            marks |= {text.strip() for id, text in tokens if self._is_added(id, text)}
        marks_pattern = _any_of(marks)
        for piece in headers + cues:
            lines = (HEADER.search(part.rstrip()) for part in marks_pattern.split(piece))
            marks |= {line[0] for line in lines if line}
        return _any_of(marks)

    def _pieces(self) -> tuple[list[str], list[str]]:
        """What the template writes around the contents of a dialogue, but before answers; and what before answers."""
        pieces = WORD.split(self.text(_dialogue(4)))[::2]
        headers, cues = pieces[::2], pieces[1::2]
        with suppress(BadRow):  # it may have no system role
            headers += WORD.split(self.text([{"role": "system", "content": word(9)}, *_dialogue(2)]))[:3:2]
        return headers, cues

    # What a template makes of a message beside its content

    def _as_template_reads(self, message: Message) -> Message:
        """The message under the names, and in the forms, that this template reads."""
        if len(message) > 2:
            message = dict(message)
            if REASONING in message:
                message[self.reasoning_key or REASONING] = message.pop(REASONING)
            if CALLS in message:
                message |= self._calls_as_read(message)
        return self._in_blocks(message)

    def _in_blocks(self, message: Message) -> Message:
        if not self.blocks or not isinstance(message["content"], str):
            return message
        return {**message, "content": [{"type": "text", "text": message["content"]}]}

    def _try(self, answer: Message, tools: Tools = None) -> str:
        """The text of a question and this answer, its keys taken as they are; empty where the template refuses it."""
        messages = [self._in_blocks(message) for message in (*_dialogue(1), answer)]
        try:
            return self._render([messages], tools)[0]
        except UserError:
            raise
        except Exception:  # a template is a program: it may raise anything
            return ""

    def _calls_as_read(self, message: Message) -> Message:
        notation = self.calls
        if notation is None:
            raise BadRow("the chat template writes no tool calls", "Use a template that does, or drop the row.")
        return _in_notation(message, notation)

    @cached_property
    def reasoning_key(self) -> str | None:
        """The key of an answer whose text the template writes as its reasoning; None where it writes none."""
        for key in REASONING_KEYS:
            answer = {"role": "assistant", "content": word(1), key: word(2)}
            text = self._try(answer)
            if word(1) in text and word(2) in text:
                return key
        return None

    @cached_property
    def has_developer(self) -> bool:
        """Whether it writes the role `developer` in a way of its own. A template that writes whatever a role is called
        (ChatML's, Llama 3's) does not know it, nor does a model that learnt by that template."""
        texts = []
        for role in (DEVELOPER, word(8)):
            try:
                texts.append(self.text([{"role": role, "content": word(9)}, *_dialogue(1)]))
            except BadRow:
                texts.append("")
        own, any_role = texts
        return word(9) in own and own != any_role.replace(word(8), DEVELOPER)

    @cached_property
    def splits_thinking(self) -> bool:
        """Whether it takes `<think>…</think>` out of a content by itself. Where it does not, though it knows reasoning,
        a thinking in the content would stand behind an empty block of the template's own."""
        inline = {"role": "assistant", "content": f"<think>\n{word(2)}\n</think>\n\n{word(1)}"}
        field = {"role": "assistant", "content": word(1), REASONING: word(2)}
        with suppress(BadRow):
            return self.text([*_dialogue(1), inline]) == self.text([*_dialogue(1), field])
        return False

    @cached_property
    def calls(self) -> CallNotation | None:
        """How the template takes tool calls: tried on a call of unique words, all of which have to be written."""
        name, key, value = (word(number) for number in (2, 3, 4))
        call = {"type": "function", "function": {"name": name, "arguments": {key: value}}}
        tools = [{"type": "function", "function": {"name": name, "description": name, "parameters": _NO_PARAMETERS}}]
        for notation in [CallNotation(as_text, content) for content in ("", None) for as_text in (False, True)]:
            answer = _in_notation({"role": "assistant", "content": "", CALLS: [call]}, notation)
            text = self._try(answer, tools)
            # {{ arguments }} of an object is Python's own notation, with quotes that no JSON has
            if key in text and value in text and f"{{'{key}'" not in text:
                return notation
        return None

    def _wants_blocks(self) -> bool:
        """Whether content must be a list of blocks, as in templates that also take images."""
        trouble = ""
        for self.blocks in (False, True):
            try:
                text = self.text(_dialogue(4))
            except BadRow as refused:
                trouble = trouble or refused.what
                continue
            if all(word(n) in text for n in range(4)):
                return self.blocks
        trouble = trouble or "it drops what messages say"
        raise fail(WHERE, f"it cannot render user, assistant, user, assistant: {trouble}", "Use another template.")

    def _closing(self) -> str:
        """What to add behind the last answer: nothing, or the header of the next turn where only that ends an answer.

        GLM-4 is of the second kind: the model stops by writing `<|user|>`.
        """
        if self.last_added(self.text(_dialogue(4)).rpartition(word(3))[2]):
            return ""
        after = WORD.split(self.text(_dialogue(4)))[4]
        if end := self.first_added(after):
            return after[:end]
        raise self._endless(after)

    def _endless(self, after: str) -> UserError:
        eos = self.tokenizer.eos_token
        return fail(
            WHERE,
            f"it ends no answer with a token of this tokenizer (it writes {after[:40]!r}), so a model could never stop",
            f"Write {{{{ eos_token }}}} ({eos}) after each answer, or add the template's end token to the tokenizer."
            if eos
            else "Give the tokenizer an eos_token and write it after each answer.",
        )


_NO_PARAMETERS = {"type": "object", "properties": {}}


def _in_notation(message: Message, notation: CallNotation) -> Message:
    """The message's calls, and its content where it has none, as the template takes them."""
    calls = message[CALLS]
    if notation.as_text:
        calls = [
            {**call, "function": {**call["function"], "arguments": json.dumps(arguments, ensure_ascii=False)}}
            for call in calls
            for arguments in [call["function"]["arguments"]]
        ]
    return {**message, "content": message["content"] or notation.no_content, CALLS: calls}


def bare(message: Message) -> Message:
    """Only what a template may read of the message; most have a role and a content alone."""
    if len(message) == 2:
        return message
    keys = ("role", "content", REASONING, CALLS, *(OF_A_TOOL if message["role"] == "tool" else ()))
    return {key: message[key] for key in keys if message.get(key) is not None}


def _dialogue(length: int) -> list[Message]:
    return [{"role": ("user", "assistant")[n % 2], "content": word(n)} for n in range(length)]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds the text of any special token."""
    return _any_of(_special(tokenizer))


def _special(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _any_of(words: set[str]) -> re.Pattern[str]:
    longest_first = sorted(words - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing
