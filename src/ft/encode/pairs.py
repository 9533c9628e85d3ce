"""Preference rows as a trainer gets them: one prompt, and two answers to it, as token ids.

A pair is rendered by the renderer of all rows, once with each answer; what both have before the answer is the prompt.
The prompt's budget and the whole row's are apart, an answer is never cut, and old turns leave both sides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ft.data.formats import BadRow
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.truncation import fewest_dropped, messages_left, turn_starts

Row = dict[str, Any]
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

    on_too_long: Literal["error", "drop", "drop_turns"] = "error"
    on_bad_row: Literal["error", "reject"] = "error"
    eval_fraction: float = 0.0
    max_prompt_length: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise ValueError("eval_fraction is a share of the rows, from 0 to below 1")


@dataclass(frozen=True)
class RenderedPair:
    """Ids of the prompt (generation prompt included) and of each answer through its end-of-turn token.

    `reference` holds the summed log-probabilities (nats) of chosen and rejected under the reference, where the row
    brought them; `rating` how much better chosen is, from 1 (significantly) to 4 (negligibly), and `safe` whether
    chosen and rejected are safe, where the row says so.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt_roles: list[int]
    answer_roles: list[int]
    reference: tuple[float, float] | None = None
    rating: int | None = None
    safe: tuple[bool | None, bool | None] = (None, None)

    @cached_property
    def input_ids(self) -> list[int]:
        """Prompt, chosen, rejected: what the pair is worth in tokens when the prompt is shared."""
        return [*self.prompt_ids, *self.chosen_ids, *self.rejected_ids]

    @cached_property
    def labels(self) -> list[int]:
        return [*[IGNORE_INDEX] * len(self.prompt_ids), *self.chosen_ids, *self.rejected_ids]

    @property
    def roles(self) -> list[int]:
        return [*self.prompt_roles, *self.answer_roles]

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two sequences, which is what max_length bounds."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


class PairRenderer:
    """Renders rows of `prompt`, `chosen`, `rejected` for one tokenizer; see PairOptions for the budget."""

    def __init__(self, tokenizer: Any, options: PairOptions, max_length: int):
        self.renderer = Renderer(tokenizer, train_on="completion")
        self.options, self.max_length = options, max_length
        self.counts, self.notes = self.renderer.counts, self.renderer.notes

    def render_batch(self, rows: Sequence[Row]) -> list[RenderedPair | BadRow | None]:
        """Each row as a pair, as what is wrong with it, or None where on_too_long drops it."""
        return [self._fit(row, pair) for row, pair in zip(rows, self._pairs(rows), strict=True)]

    def _pairs(self, rows: Sequence[Row]) -> list[RenderedPair | BadRow]:
        """The pairs, whatever their length, in one call of the tokenizer."""
        sides = [_side(row, answer) for answer in ("chosen", "rejected") for row in rows]
        rendered = self.renderer.render_batch(sides)
        halves = zip(rows, rendered[: len(rows)], rendered[len(rows) :], strict=True)
        return [_pair(row, chosen, rejected) for row, chosen, rejected in halves]

    def _fit(self, row: Row, pair: RenderedPair | BadRow) -> RenderedPair | BadRow | None:
        if isinstance(pair, BadRow) or not (excess := self._excess(pair)):
            return pair
        self.counts.rows_too_long += 1
        if self.options.on_too_long == "error":
            return BadRow(excess, "Raise it, or set on_too_long: drop_turns or drop.")
        if self.options.on_too_long == "drop_turns" and (shorter := self._drop_turns(row)):
            self.counts.turns_dropped += shorter[0]
            return shorter[1]
        self.counts.rows_dropped += 1
        return None

    def _excess(self, pair: RenderedPair) -> str:
        """What is too long, or nothing."""
        most = self.options.max_prompt_length
        if most is not None and len(pair.prompt_ids) > most:
            return f"its prompt is {len(pair.prompt_ids)} tokens long, over max_prompt_length {most}"
        if pair.longest > self.max_length:
            return f"it is {pair.longest} tokens long, over max_length {self.max_length}"
        return ""

    def _drop_turns(self, row: Row) -> tuple[int, RenderedPair] | None:
        def fits(turns: int) -> RenderedPair | None:
            prompt = [row["prompt"][n] for n in messages_left(row["prompt"], turns)]
            pair = self._pairs([{**row, "prompt": prompt}])[0]
            return pair if isinstance(pair, RenderedPair) and not self._excess(pair) else None

        return fewest_dropped(len(turn_starts(row["prompt"])) - 1, fits)


def through_answers(renderer: Renderer, conversations: Sequence[list[Row]]) -> list[list[int] | BadRow]:
    """Tokens of each conversation through the end-of-turn token of its last message, an answer: the ids that a pair
    with this answer has. A score is read at that last token. `renderer` must train on the last answer."""
    rendered = renderer.render_batch([{"messages": [_bare(message) for message in turns]} for turns in conversations])
    token_lists: list[list[int] | BadRow] = []
    for turns, row in zip(conversations, rendered, strict=True):
        if isinstance(row, RenderedRow) and turns[-1]["role"] != "assistant":
            token_lists.append(
                BadRow("a conversation to score ends with an answer", "End it with an assistant message.")
            )
        elif isinstance(row, RenderedRow):
            token_lists.append(row.input_ids[: _answer(row)[1]])
        else:
            assert row is not None, "without a budget no row is dropped"
            token_lists.append(row)
    return token_lists


def _bare(message: Row) -> Row:
    return {"role": message["role"], "content": message["content"]}


def _side(row: Row, answer: str) -> Row:
    return {"prompt": row.get("prompt"), "completion": row.get(answer), "tools": row.get("tools")}


def _pair(
    row: Row, chosen: RenderedRow | BadRow | None, rejected: RenderedRow | BadRow | None
) -> RenderedPair | BadRow:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if isinstance(side, BadRow):
            return BadRow(f"{name}: {side.what}", side.fix)
    assert isinstance(chosen, RenderedRow)
    assert isinstance(rejected, RenderedRow)
    (start, end), (other_start, other_end) = _answer(chosen), _answer(rejected)
    if chosen.input_ids[:start] != rejected.input_ids[:other_start]:
        return BadRow("its prompt is not the same tokens before both answers", "Use another chat template.")
    return RenderedPair(
        prompt_ids=chosen.input_ids[:start],
        chosen_ids=chosen.input_ids[start:end],
        rejected_ids=rejected.input_ids[other_start:other_end],
        prompt_roles=chosen.roles[:start],
        answer_roles=[*chosen.roles[start:end], *rejected.roles[other_start:other_end]],
        reference=_reference(row),
        rating=row.get("rating"),
        safe=(row.get(SAFETY[0]), row.get(SAFETY[1])),
    )


def _answer(row: RenderedRow) -> tuple[int, int]:
    """First and one past the last trained token; a template's whitespace behind the end token is left out."""
    trained = [place for place, label in enumerate(row.labels) if label != IGNORE_INDEX]
    return trained[0], trained[-1] + 1


def _reference(row: Row) -> tuple[float, float] | None:
    values = [row.get(name) for name in REFERENCE]
    if all(isinstance(value, (int, float)) for value in values):
        return float(values[0]), float(values[1])  # type: ignore[arg-type]
    return None
