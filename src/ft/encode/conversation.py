"""What a model is trained on: rows rendered by a chat template; of each token who said it, and whether it is trained.

An answer is trained from where the prompt to generate it ends through its end-of-turn token: what a model writes itself
when it answers, no more and no less. Whitespace that a template writes behind that token is not trained.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ft.data.formats.fields import (
    CALLS,
    DEVELOPER,
    LABELS,
    REASONING,
    TOOLS,
    VARIABLES,
    BadRow,
    Message,
    Row,
    check_columns,
    read_columns,
)
from ft.encode.chat_template import ChatTemplate, Tools, bare, special_tokens, template
from ft.encode.encoder import RowTokens, row_tokens
from ft.encode.loss_mask import IGNORE_INDEX, TrainOn, token_range, trained_messages, without
from ft.encode.pictures import asks_for_caption, picture_in, reader_of
from ft.encode.segments import NO_INPUTS, Layout, Segmenter, TemplateInputs
from ft.encode.truncation import Counts, fewest_dropped, shortened, turn_starts
from ft.errors import fail

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ROLES", "BadRow", "Counts", "RenderedRow", "Renderer", "template"]

ROLES = ("template", "system", "user", "assistant", "tool")
CODES = {role: code for code, role in enumerate(ROLES)}
CODES[DEVELOPER] = CODES["system"]

INLINE_THINKING = re.compile(r"\s*(?:<think>)?\n*(?P<reasoning>.*\S)\s*</think>\s*(?P<content>\S.*)", re.DOTALL)

OnTooLong = Literal["error", "drop", "drop_turns", "split"]


@dataclass(frozen=True)
class RenderedRow:
    """A row as the trainer gets it: `labels` are IGNORE_INDEX where not trained, `roles[n]` is an index into ROLES."""

    input_ids: list[int]
    labels: list[int]
    roles: list[int]
    dropped_turns: int = 0
    picture: str = ""  # that its picture tokens stand for

    @property
    def tokens(self) -> RowTokens:
        return row_tokens({"input_ids": self.input_ids, "labels": self.labels, "roles": self.roles})


@dataclass
class _Conversation:
    """A row's dialogue: `first` is its first message after the prompt, if it has one; `wanted` are trained."""

    messages: list[Message]
    first: int | None
    trained: set[int]
    inputs: TemplateInputs
    text: str | BadRow = ""


@dataclass
class _Draft:
    """A dialogue as text, with the stretches of it to train, before it is tokenised."""

    layout: Layout
    trained: list[tuple[int, int]]
    answers: list[int]  # messages whose end-of-turn token must be trained


class Renderer:
    """Renders rows of `messages`, `prompt` + `completion` and `text` for one tokenizer, and their `tools`.

    Of a message it reads `role`, `content`, `train`, `reasoning_content` and `tool_calls`; of a row also `tools` and
    `chat_template_kwargs`. What the template leaves out of these is refused.

    train_on    last: the last answer. assistant: every answer (of a prompt + completion row: of its completion).
                completion: everything after the prompt (of a messages row: the last answer). all: every token.
                A message's own `train: true | false` goes before.
    on_too_long for rows of more than `max_length` tokens. drop_turns takes whole oldest turns out and keeps system
                messages; under last and completion it never takes anything trained, else never the last answer trained.
                split: a document stays whole here, and the encoder cuts it.
    stop_ids    the tokens that end an answer, for generation.
    pictures    how the model reads them; None: it reads text alone, and rows with pictures are refused. A row's picture
                stands in front of its text, whichever message asks about it.
    notes       what the template does that a person should know.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        train_on: TrainOn = "assistant",
        max_length: int | None = None,
        on_too_long: OnTooLong = "error",
    ):
        self.tokenizer, self.train_on = tokenizer, train_on
        self.max_length, self.on_too_long = max_length, on_too_long
        self.counts = Counts()
        self.pictures = reader_of(tokenizer)
        self.notes: tuple[str, ...] = ()
        self.special = special_tokens(tokenizer)
        one = tokenizer.bos_token_id != tokenizer.eos_token_id  # GPT-2 has one token for both, which may stand anywhere
        self.bos: tuple[int | None, str] = (tokenizer.bos_token_id, tokenizer.bos_token) if one else (None, "")
        self.stop_ids: tuple[int, ...] = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.template: ChatTemplate | None = None  # a base model's plain text needs none
        if tokenizer.chat_template:
            self.template = ChatTemplate(tokenizer)
            self.spans = Segmenter(self.template)
            try:
                self.stop_ids = self._stops()
                self.notes = self._notes()
            except BadRow as bad:  # the plainest dialogue there is: no row could be rendered
                raise fail("chat template", bad.what, bad.fix) from bad

    @property
    def chat(self) -> ChatTemplate:
        """The template. Raises UserError where there is none."""
        if self.template is None:
            self.template = ChatTemplate(self.tokenizer)  # raises: there is none
        return self.template

    def prompt(
        self, messages: Sequence[Message], tools: Tools = None, variables: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The token ids up to where a model is to answer; `variables` are the template's own."""
        picture_ids = self.pictures.ids if self.pictures and self._picture(messages) else []
        if asks_for_caption(messages):
            return [*picture_ids, *self._caption_start()]
        text = self.prompt_text(messages, tools, variables)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        self._check_bos(ids, text)
        return [*picture_ids, *ids]

    def prompt_text(
        self, messages: Sequence[Message], tools: Tools = None, variables: Mapping[str, Any] | None = None
    ) -> str:
        """The text up to where a model is to answer. Raises BadRow."""
        if not messages or messages[-1]["role"] == "assistant":
            raise BadRow("a prompt ends before an answer", "End it with a user message.")
        self._picture(messages)
        self._refuse_forged(messages)
        chat = self.chat
        written = [self._bare(message) for message in messages]
        text = chat.text(written, tools, variables, prompt=True)
        chat.check_tools(text, written, tools, variables, prompt=True)
        for n, message in enumerate(messages):
            words = (
                message["content"].rpartition("</think>")[2] if message["role"] == "assistant" else message["content"]
            )
            if words.strip() not in text:  # an earlier answer's thinking is left out by design
                raise BadRow(f"the chat template drops or changes message {n + 1} ({message['role']})")
        return text

    def render(self, row: Row) -> RenderedRow | None:
        """The row's tokens and labels; None where `on_too_long` drops it. Raises BadRow."""
        rendered = self.render_batch([row])[0]
        if isinstance(rendered, BadRow):
            raise rendered
        return rendered

    def render_batch(self, rows: Sequence[Row]) -> list[RenderedRow | BadRow | None]:
        """What `render` returns or raises for each row, in one call of the tokenizer."""
        self._refuse_untrainable_answers()
        return [self._fit(row, rendered) for row, rendered in zip(rows, self._render_whole(rows), strict=True)]

    # Rendering, whatever the length

    def _render_whole(self, rows: Sequence[Row]) -> list[RenderedRow | BadRow]:
        drafts = [
            self._draft(conversation) for conversation in self._render_texts([self._read_row(row) for row in rows])
        ]
        encoded = self._tokenize([draft.layout.text for draft in drafts if isinstance(draft, _Draft)])
        labelled = [self._label(draft, *next(encoded)) if isinstance(draft, _Draft) else draft for draft in drafts]
        return [self._behind_picture(row, rendered) for row, rendered in zip(rows, labelled, strict=True)]

    def _read_row(self, row: Row) -> _Conversation | RenderedRow | BadRow:
        try:
            if _is_document(row):
                return self._render_text(row["text"])
            messages, first = _messages(row)
            self._picture(messages)
            if asks_for_caption(messages[:-1]):
                return self._render_caption(messages[-1]["content"])
            self._refuse_forged(messages)
            trained = trained_messages(messages, first, self.train_on)
            columns = read_columns(row)
            inputs = (columns.get(TOOLS), columns.get(VARIABLES))
        except BadRow as bad:
            return bad
        return _Conversation([self._bare(message) for message in messages], first, trained, inputs)

    def _render_texts(
        self, conversations: list[_Conversation | RenderedRow | BadRow]
    ) -> list[_Conversation | RenderedRow | BadRow]:
        """The dialogues with their texts, which are rendered together where no tools are given."""
        plain = [
            conversation
            for conversation in conversations
            if isinstance(conversation, _Conversation) and conversation.inputs == NO_INPUTS
        ]
        texts = self.chat.texts([conversation.messages for conversation in plain]) if plain else []
        for conversation, text in zip(plain, texts, strict=True):
            conversation.text = text
        return conversations

    def _tokenize(self, texts: list[str]) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        if not texts:
            return iter(())
        # The template has written BOS already: the tokenizer's own would be a second one, which no prompt has
        encoded = self.tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        return zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)

    def _draft(self, conversation: _Conversation | RenderedRow | BadRow) -> _Draft | RenderedRow | BadRow:
        if not isinstance(conversation, _Conversation):
            return conversation
        try:
            if isinstance(conversation.text, BadRow):
                return conversation.text
            text = conversation.text or self.chat.text(conversation.messages, *conversation.inputs)
            draft = self._select_trained(
                conversation, self.spans.layout(conversation.messages, conversation.inputs, text)
            )
        except BadRow as bad:
            return bad
        self.counts.answers_shortened += len(draft.layout.shortened)
        return draft

    def _select_trained(self, conversation: _Conversation, layout: Layout) -> _Draft:
        """Which characters are trained, of the messages that are wanted."""
        answers = [n for n in sorted(conversation.trained) if conversation.messages[n]["role"] == "assistant"]
        for n in answers:
            if n in layout.faults and (self.train_on != "all" or n in layout.shortened):
                raise layout.faults[n]
        spans = layout.spans
        if self.train_on == "all":
            silent = [(spans[n].start, spans[n].end) for n in range(len(spans)) if n not in conversation.trained]
            return _Draft(layout, without(len(layout.text), silent), answers)
        trained: list[tuple[int, int]] = []
        for n in sorted(conversation.trained):
            after_prompt = self.train_on == "completion" and conversation.first is not None and n > conversation.first
            # completion: what the template writes between two trained messages (headers, a tool's turn) is trained too
            start = trained.pop()[0] if after_prompt and n - 1 in conversation.trained else spans[n].start
            trained.append((start, spans[n].end))
        if not trained:
            raise BadRow("no message of this row is trained", "Give it an answer, or an answer train: true.")
        return _Draft(layout, trained, answers)

    def _label(self, draft: _Draft, ids: list[int], offsets: list[tuple[int, int]]) -> RenderedRow | BadRow:
        layout = draft.layout
        starts = [start for start, _ in offsets]
        labels, roles = [IGNORE_INDEX] * len(ids), [0] * len(ids)
        try:
            self._check_bos(ids, layout.text)
            for span in layout.spans:
                low, high = token_range(starts, offsets, layout.text, span.start, span.end, strict=False)
                roles[low:high] = [CODES.get(span.role, 0)] * (high - low)
            strict, count = self.train_on != "all", 0
            for start, end in draft.trained:
                low, high = token_range(starts, offsets, layout.text, start, end, strict=strict)
                labels[low:high] = ids[low:high]
                count += high - low
            for n in draft.answers:
                self._check_end(layout, n, starts, ids, labels)
        except BadRow as bad:
            return bad
        if not count:
            return BadRow("no token of this row is trained", "Give it an answer.")
        return RenderedRow(ids, labels, roles)

    def _render_text(self, text: str) -> RenderedRow:
        """A document: BOS where the tokenizer puts one, the text, EOS; all of it trained."""
        if found := self.special.search(text):
            raise BadRow(f"the text holds the control token {found[0]!r}", "Take it out: EOS is put behind each text.")
        if self.tokenizer.eos_token_id is None:
            raise fail("tokenizer", "it has no eos_token to end a text with", "Give it one.")
        ids = list(self.tokenizer(text)["input_ids"])
        if ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        return RenderedRow(ids, list(ids), [0] * len(ids))

    # Pictures

    def _picture(self, messages: Sequence[Message]) -> str | None:
        """The one picture that the conversation is about, if any. Raises BadRow where the model does not read them."""
        picture = picture_in(messages)
        if picture and self.pictures is None:
            what = "a message holds a picture, and the model reads text alone"
            raise BadRow(what, "Drop the row, or name a model that takes pictures.")
        return picture

    def _behind_picture(self, row: Row, rendered: RenderedRow | BadRow) -> RenderedRow | BadRow:
        """A rendered row with the tokens of its picture in front, which are read and never trained."""
        if self.pictures is None or isinstance(rendered, BadRow):
            return rendered
        picture = picture_in(row.get("messages") or row.get("prompt") or ())
        if not picture:
            return rendered
        ids = self.pictures.ids
        return RenderedRow(
            [*ids, *rendered.input_ids],
            [*[IGNORE_INDEX] * len(ids), *rendered.labels],
            [*[CODES["user"]] * len(ids), *rendered.roles],
            picture=picture,
        )

    def _caption_start(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def _render_caption(self, text: str) -> RenderedRow:
        """A picture's caption, with no turn around it: what a picture without a question is answered by."""
        document, start = self._render_text(text), len(self._caption_start())
        ids = document.input_ids
        if ids[:start] != self._caption_start():  # a tokenizer that puts no BOS by itself
            ids = [*self._caption_start(), *ids]
        labels = [*[IGNORE_INDEX] * start, *ids[start:]]
        return RenderedRow(ids, labels, [CODES["template"]] * start + [CODES["assistant"]] * (len(ids) - start))

    # Length

    def _fit(self, row: Row, rendered: RenderedRow | BadRow) -> RenderedRow | BadRow | None:
        if isinstance(rendered, BadRow) or self._fits(rendered):
            return rendered
        length = len(rendered.input_ids)
        self.counts.rows_too_long += 1
        if self.on_too_long == "error":
            what = f"it is {length} tokens long, over max_length {self.max_length}"
            return BadRow(what, "Raise max_length, or set on_too_long: drop_turns or drop.")
        if self.on_too_long == "split":
            if not _is_document(row):
                what = f"it is {length} tokens long, over max_length {self.max_length}, and only documents are split"
                return BadRow(what, "Raise max_length, or set on_too_long: drop_turns or drop.")
            return rendered
        if self.on_too_long == "drop_turns" and (shorter := self._drop_turns(row)):
            return shorter
        self.counts.rows_dropped += 1
        return None

    def _drop_turns(self, row: Row) -> RenderedRow | BadRow | None:
        def fits(turns: int) -> RenderedRow | BadRow | None:
            return self._without_turns(row, turns)

        fitting: tuple[int, RenderedRow | BadRow] | None = fewest_dropped(self._droppable(row), fits)
        if fitting is None:
            return None
        dropped, shorter = fitting
        if isinstance(shorter, BadRow):
            return shorter
        self.counts.turns_dropped += dropped
        return replace(shorter, dropped_turns=dropped)

    def _fits(self, rendered: RenderedRow) -> bool:
        return self.max_length is None or len(rendered.input_ids) <= self.max_length

    def _droppable(self, row: Row) -> int:
        """How many turns may leave: those before the first (last, completion) or the last message that is trained."""
        if _is_document(row):
            return 0
        messages, first = _messages(row)
        trained = [n for n in trained_messages(messages, first, self.train_on) if messages[n]["role"] == "assistant"]
        pick = min if self.train_on in ("last", "completion") else max
        stays = pick(trained, default=len(messages) - 1)
        stays = stays if first is None else min(stays, first)
        return max(0, sum(start < stays for start in turn_starts(messages)) - 1)

    def _without_turns(self, row: Row, turns: int) -> RenderedRow | BadRow | None:
        """The row without its oldest turns, if it fits then."""
        messages, first = _messages(row)
        left = shortened(messages, turns)
        if first is None:
            shorter = {**row, "messages": left}
        else:
            shorter = {**row, "prompt": left[: len(left) - (len(messages) - first)]}
        rendered = self._render_whole([shorter])[0]
        return rendered if isinstance(rendered, BadRow) or self._fits(rendered) else None

    # Checks

    def _bare(self, message: Message) -> Message:
        """What the template may read of a message; a thinking that stands in its content goes into the field of its own
        where only that is rendered (Qwen 3.8), since the template would put an empty block before it."""
        if message.get(DEVELOPER) and self.chat.has_developer:
            message = {**message, "role": DEVELOPER}
        message = bare(message)
        if message["role"] != "assistant" or "</think>" not in message["content"] or REASONING in message:
            return message
        chat, parts = self.chat, INLINE_THINKING.fullmatch(message["content"])
        if parts and chat.reasoning_key and not chat.splits_thinking:
            return {**message, REASONING: parts["reasoning"], "content": parts["content"]}
        return message

    def _refuse_forged(self, messages: Sequence[Message]) -> None:
        """No message may hold what the template marks turns with: its writer could put words in another's mouth."""
        forging = self.chat.forging
        for n, message in enumerate(messages):
            if not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
                raise BadRow(f"message {n + 1} is not a role with text", 'Write {"role": "user", "content": "…"}.')
            texts = [message["content"], message.get(REASONING, ""), *map(repr, message.get(CALLS, ()))]
            if found := next(filter(None, map(forging.search, texts)), None):
                what = (
                    f"message {n + 1} ({message['role']}) holds {found[0]!r}, which marks a turn in this chat template"
                )
                raise BadRow(what, "Take it out of the text, or write it otherwise.")

    def _check_bos(self, ids: list[int], text: str) -> None:
        """BOS as often as the template writes it: the tokenizer adds none and misses none."""
        bos, bos_text = self.bos
        if bos is None:
            return
        if ids.count(bos) != text.count(bos_text):
            what = f"its text has {text.count(bos_text)} {bos_text}, its tokens {ids.count(bos)}"
            raise BadRow(what, "Make the tokenizer's bos_token a special token that is found anywhere in a text.")

    def _check_end(self, layout: Layout, n: int, starts: list[int], ids: list[int], labels: list[int]) -> None:
        """The end-of-turn token of a trained answer is one token, and trained."""
        if n in layout.faults:
            return
        place = bisect_left(starts, layout.spans[n].end) - 1
        if labels[place] == IGNORE_INDEX or ids[place] not in self.chat.added:
            raise BadRow(f"the end of message {n + 1} (assistant) is not trained", "This is a fault of the template.")

    def _stops(self) -> tuple[int, ...]:
        ids: Any = self.chat.tokenizer.convert_tokens_to_ids([*self.spans.turn_ends])
        return tuple(dict.fromkeys(ids))

    def _refuse_untrainable_answers(self) -> None:
        """Not when a renderer is made: one that only writes prompts trains nothing."""
        if self.train_on == "assistant" and self.template and 1 not in self.spans.canonical.ends:
            raise fail(
                "chat template",
                "it ends only the last answer of a dialogue with a token to stop at, so the others cannot be trained",
                "Set train_on: last, or use another chat template.",
            )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        chat = self.chat
        if chat.closing:
            notes.append(f"The chat template ends no answer; the next turn's {chat.closing!r} is trained as its end.")
        question = [{"role": "user", "content": "What is it?"}]
        cue = self.prompt(question)
        trained = self._render_whole([{"messages": [*question, {"role": "assistant", "content": "This."}]}])[0]
        if isinstance(trained, RenderedRow) and trained.input_ids[: len(cue)] != cue:
            endings = [chat.tokenizer.decode(ids[-4:]) for ids in (cue, trained.input_ids[: len(cue)])]
            notes.append(
                f"The prompt for an answer ends in {endings[0]!r}, where training has {endings[1]!r}: the chat "
                "template or the tokenizer writes it otherwise when an answer follows."
            )
        return tuple(notes)


def _is_document(row: Row) -> bool:
    return "messages" not in row and "prompt" not in row and isinstance(row.get("text"), str)


def _messages(row: Row) -> tuple[list[Message], int | None]:
    """The dialogue, and for a prompt + completion row the number of its first message after the prompt."""
    if row.get("messages"):
        return row["messages"], None
    if row.get("prompt") and row.get("completion"):
        check_columns(row, LABELS)  # the format alone lets an unwanted answer pass
        return [*row["prompt"], *row["completion"]], len(row["prompt"])
    what = "the row has neither `messages`, nor `prompt` and `completion`, nor `text`"
    raise BadRow(what, f"It has: {', '.join(row)}.")
