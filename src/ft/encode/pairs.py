"""Preference rows as a trainer gets them: one prompt, and one or two answers to it, as token ids.

A pair is encoded by the encoder of all rows, once with each answer; what both have before the answer is the prompt.
The prompt's budget and the whole row's are apart, an answer is never cut, and old turns leave both sides alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ft.data.formats.fields import (
    REFUSED_WHERE_PAIRS_ARE_SCORED,
    TOOLS,
    VARIABLES,
    BadRow,
    Message,
    Row,
    check_columns,
)
from ft.data.sources.files import SourceRow
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.encoder import ArrowColumn, Encoded, EncodedRow, Encoder, id_columns, roles_column, row_tokens
from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.truncation import fewest_dropped, shortened, turn_starts

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")  # TRL's names
SAFETY = ("safety_chosen", "safety_rejected")


@dataclass(frozen=True)
class PairOptions:
    """How preference rows become tokens: the `rows:` block of a stage that trains on pairs.

    on_too_long        a pair longer than train.max_length, or a prompt longer than max_prompt_length: error, drop
                       (counted), drop_turns (whole oldest turns leave the prompt)
    on_bad_row         error, or reject (written to rejects.jsonl with line, reason and fix)
    eval_fraction      share of conversations held out for evaluation, by a hash of how each begins
    max_prompt_length  longest prompt, in tokens; absent: what max_length leaves
    """

    trains_answers: ClassVar[bool] = True  # every token behind the prompt, as the losses of preferences do

    on_too_long: Literal["error", "drop", "drop_turns"] = "error"
    on_bad_row: Literal["error", "reject"] = "error"
    eval_fraction: float = 0.0
    max_prompt_length: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise ValueError("eval_fraction is a share of the rows, from 0 to below 1")


@dataclass(frozen=True)
class UnpairedOptions(PairOptions):
    """The same for a stage that learns from labels of single answers. Pairs are taken apart."""


@dataclass(frozen=True)
class ScoredPairOptions(PairOptions):
    """The same for a reward model, which reads two dialogues and scores each at its end: what stands between is
    context, whoever says it."""

    trains_answers: ClassVar[bool] = False


class PreferenceEncoder(ABC):
    """Encodes rows of a `prompt` and `answers` to it by the encoder of a family's other rows, which must train what
    follows the prompt; see PairOptions for the budget.

    `prompt_ids` has the generation prompt, and each answer's ids (`chosen_ids`) go through its end-of-turn token.
    `input_ids` are the prompt and all answers: what the row is worth in tokens when the prompt is shared.
    """

    answers: ClassVar[tuple[str, ...]]
    continued_fix: ClassVar[str]  # for an answer behind which the dialogue goes on

    def __init__(self, encoder: Encoder, options: PairOptions, max_length: int | None):
        self.row_encoder, self.options, self.max_length = encoder, options, max_length
        self.counts, self.notes = encoder.counts, encoder.notes

    @abstractmethod
    def own_columns(self) -> list[ArrowColumn]:
        """What a row has beside ids, as Arrow holds it."""

    @abstractmethod
    def own_values(self, row: Row) -> EncodedRow:
        """Those of a row. Raises BadRow."""

    def arrow_columns(self) -> list[ArrowColumn]:
        ids = id_columns("input_ids", "labels", "prompt_ids", *map(ids_of, self.answers))
        return [*ids, roles_column(), *self.own_columns()]

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        """Each row, what is wrong with it, or None where on_too_long drops it."""
        return [self._fit(row, encoded) for row, encoded in zip(rows, self._encode(rows), strict=True)]

    def bounded_length(self, row: EncodedRow) -> int:
        """Tokens of its longest sequence."""
        return len(row["prompt_ids"]) + max(len(row[ids_of(answer)]) for answer in self.answers)

    def _encode(self, rows: Sequence[Row]) -> list[EncodedRow | BadRow]:
        """The rows, whatever their length, in one call of the tokenizer."""
        sides = [_side(row, answer) for row in rows for answer in self.answers]
        encoded = self.row_encoder.encode_batch(sides)
        count = len(self.answers)
        return [self._join(row, encoded[count * n : count * (n + 1)]) for n, row in enumerate(rows)]

    def _join(self, row: Row, sides: Sequence[Encoded]) -> EncodedRow | BadRow:
        try:
            self._refuse_continued(row)
            own_values = self.own_values(row)
            return {**_join_answers(self.answers, sides), **own_values}
        except BadRow as bad:
            return bad

    def _refuse_continued(self, row: Row) -> None:
        """A dialogue that goes on behind an answer: the losses of preferences sum the log-probabilities of all behind
        the prompt, so a user's words there would be learnt, and preferred, as if the model had said them."""
        for name in self.answers if self.options.trains_answers else ():
            other_roles = [message["role"] for message in row.get(name) or () if message["role"] != "assistant"]
            if other_roles:
                what = (
                    f"{name} goes on after its first answer, and what the {other_roles[0]} says there would be trained"
                )
                raise BadRow(what, self.continued_fix)

    def _fit(self, row: Row, pair: EncodedRow | BadRow) -> EncodedRow | BadRow | None:
        if isinstance(pair, BadRow) or not (excess := self._excess(pair)):
            return pair
        self.counts.rows_too_long += 1
        if self.options.on_too_long == "error":
            return BadRow(excess, "Raise it, or set on_too_long: drop_turns or drop.")
        if self.options.on_too_long == "drop_turns" and (shorter := self._drop_turns(row)):
            turns, pair = shorter
            self.counts.turns_dropped += turns
            return pair
        self.counts.rows_dropped += 1
        return None

    def _excess(self, pair: EncodedRow) -> str:
        """What is too long, or nothing."""
        prompt, longest = len(pair["prompt_ids"]), self.bounded_length(pair)
        most = self.options.max_prompt_length
        if most is not None and prompt > most:
            return f"its prompt is {prompt} tokens long, over max_prompt_length {most}"
        if self.max_length is not None and longest > self.max_length:
            return f"it is {longest} tokens long, over max_length {self.max_length}"
        return ""

    def _drop_turns(self, row: Row) -> tuple[int, EncodedRow] | None:
        """How many of its oldest turns leave the prompt until the pair fits, and the pair then."""

        def fits(turns: int) -> EncodedRow | None:
            prompt = shortened(row["prompt"], turns)
            pair = self._encode([{**row, "prompt": prompt}])[0]
            return None if isinstance(pair, BadRow) or self._excess(pair) else pair

        return fewest_dropped(len(turn_starts(row["prompt"])) - 1, fits)


class PairEncoder(PreferenceEncoder):
    """Encodes rows of `prompt`, `chosen` and `rejected`.

    The REFERENCE columns hold summed log-probabilities (nats) where the row brought them, `rating` how much better
    chosen is, from 1 (significantly) to 4 (negligibly), and the SAFETY columns whether an answer is safe, where the row
    says.
    """

    answers = ("chosen", "rejected")
    continued_fix = "End both dialogues with the first answer that differs."

    def own_columns(self) -> list[ArrowColumn]:
        import pyarrow as pa

        numbers = [*((name, pa.float32()) for name in REFERENCE), ("rating", pa.int8())]
        return [*numbers, *((name, pa.bool_()) for name in SAFETY)]

    def own_values(self, row: Row) -> EncodedRow:
        if not self.options.trains_answers and "sampled" not in row:  # rows that ft made say how far scores are apart
            check_columns(row, REFUSED_WHERE_PAIRS_ARE_SCORED)
        return {**_reference(row), "rating": row.get("rating"), **{name: row.get(name) for name in SAFETY}}


class UnpairedEncoder(PreferenceEncoder):
    """Encodes rows of `prompt`, `completion` and `label`: whether the completion is wanted."""

    answers = ("completion",)
    continued_fix = "End the dialogue with the answer that the label is about."

    def own_columns(self) -> list[ArrowColumn]:
        import pyarrow as pa

        return [("label", pa.bool_())]

    def own_values(self, row: Row) -> EncodedRow:
        if not isinstance(row.get("label"), bool):
            raise BadRow("the row has no label and is no pair", "Write `label: true` where its answer is wanted.")
        return {"label": row["label"]}


def preference_encoder(encoder: Encoder, options: PairOptions, max_length: int | None) -> PreferenceEncoder:
    """What encodes the rows of a stage with this `rows:` block."""
    encodes = UnpairedEncoder if isinstance(options, UnpairedOptions) else PairEncoder
    return encodes(encoder, options, max_length)


def take_apart(rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
    """Pairs as two rows of one answer each, the chosen one labelled true; any other row as it is."""
    return (SourceRow(where, part) for where, row in rows for part in _parts(row))


def _parts(row: Row) -> list[Row]:
    if not {"chosen", "rejected"} <= row.keys():
        return [row]
    shared = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return [{**shared, "completion": row[side], "label": side == "chosen"} for side in ("chosen", "rejected")]


def through_answers(renderer: Renderer, conversations: Sequence[list[Row]]) -> list[list[int] | BadRow]:
    """Tokens of each conversation through the end-of-turn token of its last message, an answer: the ids that a pair
    with this answer has. A score is read at that last token. `renderer` must train on the last answer."""
    rows = [{"messages": [_without_train(message) for message in turns]} for turns in conversations]
    rendered = renderer.render_batch(rows)
    token_lists: list[list[int] | BadRow] = []
    for turns, row in zip(conversations, rendered, strict=True):
        if isinstance(row, RenderedRow) and turns[-1]["role"] != "assistant":
            token_lists.append(
                BadRow("a conversation to score ends with an answer", "End it with an assistant message.")
            )
        elif isinstance(row, RenderedRow):
            token_lists.append(row.input_ids[: row.tokens.completion()[1]])
        else:
            assert row is not None, "without a budget no row is dropped"
            token_lists.append(row)
    return token_lists


def _without_train(message: Message) -> Message:
    """Without its `train`: what is scored is the last answer, whatever was trained."""
    return {key: value for key, value in message.items() if key != "train"}


def _side(row: Row, answer: str) -> Row:
    # What is trained of a pair is what stands behind its prompt, whatever messages of the prompt say of themselves
    side = {"prompt": [_without_train(message) for message in row.get("prompt") or ()], "completion": row.get(answer)}
    return side | {name: row[name] for name in (TOOLS, VARIABLES) if name in row}


def ids_of(answer: str) -> str:
    """The column with an answer's ids: TRL's name."""
    return f"{answer}_ids"


def _join_answers(answers: Sequence[str], sides: Sequence[Encoded]) -> EncodedRow:
    """Prompt and answers in one row; each side is the prompt with one of them. Raises BadRow."""
    joined: EncodedRow = {}
    for name, side in zip(answers, sides, strict=True):
        if isinstance(side, BadRow):
            raise BadRow(f"{name}: {side.what}", side.fix)
        assert isinstance(side, dict), "without a budget no row is dropped or split"
        tokens = row_tokens(side)
        start, end = tokens.completion()
        prompt_ids = tokens.ids[:start]
        if not joined:
            labels = [IGNORE_INDEX] * start
            joined = {"input_ids": [*prompt_ids], "labels": labels, "roles": tokens.roles[:start]}
            joined["prompt_ids"] = prompt_ids
        elif prompt_ids != joined["prompt_ids"]:
            raise BadRow("its prompt is not the same tokens before both answers", "Use another chat template.")
        joined[ids_of(name)] = ids = tokens.ids[start:end]
        for column, values in (("input_ids", ids), ("labels", ids), ("roles", tokens.roles[start:end])):
            joined[column] += values
    return joined


def _reference(row: Row) -> EncodedRow:
    """Both log-probabilities, or neither."""
    values = [row.get(name) for name in REFERENCE]
    if not all(isinstance(value, (int, float)) for value in values):
        values = [None, None]
    return dict(zip(REFERENCE, values, strict=True))
