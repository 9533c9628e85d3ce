"""Preference rows as a trainer gets them: one prompt, and two answers to it, as token ids.

A pair is encoded by the encoder of all rows, once with each answer; what both have before the answer is the prompt.
The prompt's budget and the whole row's are apart, an answer is never cut, and old turns leave both sides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.encoder import ArrowColumn, Encoded, EncodedRow, Encoder, id_columns, roles_column, row_tokens
from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.truncation import fewest_dropped, messages_left, turn_starts

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")  # TRL's names
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
class ScoredPairOptions(PairOptions):
    """The same for a reward model, which reads two dialogues and scores each at its end: what stands between is
    context, whoever says it."""

    trains_answers: ClassVar[bool] = False


class PairEncoder:
    """Encodes rows of `prompt`, `chosen` and `rejected` by the encoder of a family's other rows, which must train what
    follows the prompt; see PairOptions for the budget.

    `prompt_ids` has the generation prompt, `chosen_ids` and `rejected_ids` go through their end-of-turn token. The
    REFERENCE columns hold summed log-probabilities (nats) where the row brought them, `rating` how much better chosen
    is, from 1 (significantly) to 4 (negligibly), and the SAFETY columns whether an answer is safe, where the row says.
    `input_ids` are prompt, chosen and rejected: what the pair is worth in tokens when the prompt is shared.
    """

    def __init__(self, encoder: Encoder, options: PairOptions, max_length: int | None):
        self.row_encoder, self.options, self.max_length = encoder, options, max_length
        self.counts, self.notes = encoder.counts, encoder.notes

    def arrow_columns(self) -> list[ArrowColumn]:
        import pyarrow as pa

        columns = [*id_columns("input_ids", "labels", *IDS), roles_column()]
        columns += [(name, pa.float32()) for name in REFERENCE]
        return [*columns, ("rating", pa.int8()), *((name, pa.bool_()) for name in SAFETY)]

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        """Each row as a pair, as what is wrong with it, or None where on_too_long drops it."""
        return [self._fit(row, pair) for row, pair in zip(rows, self._pairs(rows), strict=True)]

    def bounded_length(self, row: EncodedRow) -> int:
        return tokens_of_longer_side(row)

    def _pairs(self, rows: Sequence[Row]) -> list[EncodedRow | BadRow]:
        """The pairs, whatever their length, in one call of the tokenizer."""
        sides = [_side(row, answer) for answer in ("chosen", "rejected") for row in rows]
        encoded = self.row_encoder.encode_batch(sides)
        halves = zip(rows, encoded[: len(rows)], encoded[len(rows) :], strict=True)
        return [self._bad(row) or _pair(row, chosen, rejected) for row, chosen, rejected in halves]

    def _bad(self, row: Row) -> BadRow | None:
        if not self.options.trains_answers and "sampled" not in row:  # rows that ft made say how far scores are apart
            try:
                check_columns(row, REFUSED_WHERE_PAIRS_ARE_SCORED)
            except BadRow as bad:
                return bad
        return self._other_roles(row)

    def _other_roles(self, row: Row) -> BadRow | None:
        """A pair whose dialogues part early: DPO sums the log-probabilities of all behind the prompt, so a user's words
        there would be learnt, and preferred, as if the model had said them."""
        for name in ("chosen", "rejected") if self.options.trains_answers else ():
            other_roles = [message["role"] for message in row.get(name) or () if message["role"] != "assistant"]
            if other_roles:
                what = (
                    f"{name} goes on after its first answer, and what the {other_roles[0]} says there would be trained"
                )
                return BadRow(what, "End both dialogues with the first answer that differs.")
        return None

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
        prompt, longest = len(pair["prompt_ids"]), tokens_of_longer_side(pair)
        most = self.options.max_prompt_length
        if most is not None and prompt > most:
            return f"its prompt is {prompt} tokens long, over max_prompt_length {most}"
        if self.max_length is not None and longest > self.max_length:
            return f"it is {longest} tokens long, over max_length {self.max_length}"
        return ""

    def _drop_turns(self, row: Row) -> tuple[int, EncodedRow] | None:
        """How many of its oldest turns leave the prompt until the pair fits, and the pair then."""

        def fits(turns: int) -> EncodedRow | None:
            prompt = [row["prompt"][n] for n in messages_left(row["prompt"], turns)]
            pair = self._pairs([{**row, "prompt": prompt}])[0]
            return None if isinstance(pair, BadRow) or self._excess(pair) else pair

        return fewest_dropped(len(turn_starts(row["prompt"])) - 1, fits)


def tokens_of_longer_side(pair: EncodedRow) -> int:
    """Tokens of the longer of a pair's two sequences, which is what max_length bounds."""
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


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


def _pair(row: Row, chosen: Encoded, rejected: Encoded) -> EncodedRow | BadRow:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if isinstance(side, BadRow):
            return BadRow(f"{name}: {side.what}", side.fix)
    assert isinstance(chosen, dict)
    assert isinstance(rejected, dict)
    one, other = row_tokens(chosen), row_tokens(rejected)
    (start, end), (other_start, other_end) = one.completion(), other.completion()
    prompt_ids = one.ids[:start]
    if prompt_ids != other.ids[:other_start]:
        return BadRow("its prompt is not the same tokens before both answers", "Use another chat template.")
    answers = {"chosen_ids": one.ids[start:end], "rejected_ids": other.ids[other_start:other_end]}
    labels = [*answers["chosen_ids"], *answers["rejected_ids"]]
    return {
        "input_ids": [*prompt_ids, *labels],
        "labels": [*[IGNORE_INDEX] * start, *labels],
        "roles": [*one.roles[:end], *other.roles[other_start:other_end]],
        "prompt_ids": prompt_ids,
        **answers,
        **_reference(row),
        "rating": row.get("rating"),
        **{name: row.get(name) for name in SAFETY},
    }


def _reference(row: Row) -> EncodedRow:
    """Both log-probabilities, or neither."""
    values = [row.get(name) for name in REFERENCE]
    if not all(isinstance(value, (int, float)) for value in values):
        values = [None, None]
    return dict(zip(REFERENCE, values, strict=True))
