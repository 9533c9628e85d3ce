"""What somebody's rows are like under a stage: what is wrong with which, how long they are, and what becomes of the
long ones, with the advice that loses least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ft.data.formats.fields import CONVERSATION_COLUMNS, PAIR_COLUMNS, UNPAIRED_COLUMNS, BadRow, UnreadFields
from ft.data.mix import eval_side, format_rows, in_batches
from ft.data.placeholders import Placeholders
from ft.data.prompts import Prompt
from ft.data.reasons import Reasons
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.encode.encoder import Encoded, EncodedRow, Encoder, encoded_rows, row_tokens
from ft.encode.pairs import take_apart
from ft.errors import UserError
from ft.models.limits import positions
from ft.models.processor import encoder_of, load_config, tokenizer_of
from ft.recipe import ModelSource, Stage
from ft.recipe.kind import function_at
from ft.results.store import Plan

BATCH = 500  # rows rendered in one tokenizer call
HELD_OUT = (0.05, 0.1, 0.2, 0.5)  # shares to hold out, the first that leaves rows on both sides
ROUND_UP = 64  # tokens to which an advised max_length is rounded


@dataclass
class RowSummary:
    """What the rows of a file are like.

    unchecked     why they could not be rendered, in words; "" where they were
    lengths       rows by the tokens that max_length bounds, or those of what they ask
    first_long    a row that is longer than max_length
    documents     long rows that are plain documents
    stay_long     long rows that are so without their oldest turns too
    positions     tokens that the model can see; None where its config does not say
    held_out      share → rows it would hold out
    unread        columns that the stage does not read; None where it prepares no rows
    """

    good: int = 0
    bad: Reasons = field(default_factory=Reasons)
    unchecked: str = ""
    tokens: int = 0
    trained: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    first_long: str = ""
    documents: int = 0
    stay_long: int = 0
    positions: int | None = None
    held_out: Counter[float] = field(default_factory=Counter)
    unread: UnreadFields | None = None
    placeholders: Placeholders = field(default_factory=Placeholders)

    def refuse(self, where: str, row: object, bad: BadRow) -> None:
        """A `Report`."""
        self.bad.add(where, bad)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    def longer_than(self, limit: int) -> int:
        return sum(count for length, count in self.lengths.items() if length > limit)

    def share(self, rows: int) -> str:
        """'337 of 999 rows (34%)'"""
        return f"{rows:,} of {self.good:,} rows ({_percent(rows, self.good)})"


def _percent(rows: int, of: int) -> str:
    return f"{rows / of:.0%}" if rows / of >= 0.01 else f"{rows / of:.1%}"


def summarize(
    plan: Plan, stage: Stage, source: Source, max_length: int | None, tick: Callable[[int], None]
) -> RowSummary:
    """Read every row as the stage would: format, template, masks and length, against `max_length`."""
    columns = {"pairs": PAIR_COLUMNS, "labelled answers": UNPAIRED_COLUMNS}.get(stage.kind.rows, CONVERSATION_COLUMNS)
    summary = RowSummary(unread=UnreadFields(columns) if stage.kind.rows else None)
    rows = _Rows(plan, stage, summary, max_length)
    formatted = format_rows(source, summary.refuse)
    for batch in in_batches(take_apart(formatted) if stage.kind.rows == "labelled answers" else formatted, BATCH):
        rows.add(batch)
        tick(len(batch))
    return summary


class _Rows:
    """Measures rows by the stage's own encoder without its limit, and long ones by one that drops turns."""

    def __init__(self, plan: Plan, stage: Stage, summary: RowSummary, max_length: int | None):
        self.plan, self.stage, self.summary, self.limit = plan, stage, summary, max_length
        self.check_row = function_at(stage.kind.check_row) if stage.kind.check_row else None
        self.encoder = self.shortener = self.renderer = None
        if not stage.kind.rows:
            with suppress(UserError):  # such rows are looked at without their lengths
                self.renderer = Renderer(tokenizer_of(*self._processor))
        else:
            try:
                self.encoder = self._encoder(None)
                self.shortener = self._encoder(max_length, on_too_long="drop_turns")
                with suppress(UserError):
                    self.summary.positions = positions(_config(plan, stage))
            except UserError as error:
                summary.unchecked = " ".join(map(str, error.problems))

    def _encoder(self, max_length: int | None, **how: Any) -> Encoder:
        written = self.stage.kind.blocks["rows"].load()(**self.stage.blocks.get("rows", {}))
        return encoder_of(*self._processor, replace(written, **how), max_length)

    @property
    def _processor(self) -> tuple[ModelSource | None, Path | None, str | None]:
        """Where the stage's tokenizer and chat template come from."""
        folder = self.plan.tokenizer_folder(self.plan.stage(self.stage.name))
        return self.plan.recipe.model_of(self.stage), folder, self.plan.recipe.chat_template

    def add(self, batch: Sequence[SourceRow]) -> None:
        encoded = self._encode(batch)
        long = []
        for item, row in zip(batch, encoded, strict=True):
            if isinstance(row, BadRow):
                self.summary.refuse(*item, row)
                continue
            self._count(item)
            if any([self._is_long(part) for part in encoded_rows(row)]):  # all of them are counted
                long.append(item)
        if long and self.shortener:
            self.summary.first_long = self.summary.first_long or long[0].where
            self.summary.documents += sum("text" in item.row for item in long)
            shortened = self.shortener.encode_batch([item.row for item in long])
            self.summary.stay_long += sum(not encoded_rows(row) for row in shortened)

    def _encode(self, batch: Sequence[SourceRow]) -> Sequence[Encoded]:
        if self.encoder:
            return self.encoder.encode_batch([item.row for item in batch])
        return [self._check(item) for item in batch]

    def _check(self, item: SourceRow) -> BadRow | None:
        try:
            asked = self.check_row(item.row) if self.check_row else None
            if self.renderer and isinstance(asked, Prompt):
                length = len(self.renderer.prompt(asked.messages, asked.tools, asked.variables))
                self.summary.tokens += length
                self.summary.lengths[length] += 1
        except BadRow as bad:
            return bad
        return None

    def _count(self, item: SourceRow) -> None:
        self.summary.good += 1
        self.summary.placeholders.add(item.row)
        if self.summary.unread:
            self.summary.unread.add(item.row)
            shares = [share for share in shares_to_hold_out(self.stage) if eval_side(item.row, share, self._seed)]
            self.summary.held_out.update(shares)

    @property
    def _seed(self) -> int:
        return self.plan.recipe.seed

    def _is_long(self, row: EncodedRow) -> bool:
        assert self.encoder
        tokens, length = row_tokens(row), self.encoder.bounded_length(row)
        self.summary.tokens += len(tokens.ids)
        self.summary.trained += sum(tokens.trained)
        self.summary.lengths[length] += 1
        return self.limit is not None and length > self.limit


def _config(plan: Plan, stage: Stage) -> dict[str, Any]:
    model = plan.recipe.model_of(stage)
    return load_config(model).to_dict() if model else {}


def shares_to_hold_out(stage: Stage) -> list[float]:
    """The old recipe's own first."""
    own_share = stage.blocks.get("rows", {}).get("eval_fraction", 0.0)
    return list(dict.fromkeys(share for share in (own_share, *HELD_OUT) if share))


# Rows that are too long


def advice(summary: RowSummary, limit: int) -> str:
    """What may become of rows over `limit`, in the order of what is lost."""
    choices = sorted(_choices(summary, limit), key=lambda choice: choice[0])
    losses = [f"{option} ({words})" for _, option, words in choices]
    return f"Write {', or '.join(losses)}."


def _choices(summary: RowSummary, limit: int) -> Iterator[tuple[int, str, str]]:
    """(rows lost, option, what it does)."""
    long = summary.longer_than(limit)
    raised = -(-summary.longest // ROUND_UP) * ROUND_UP
    if summary.positions is not None:
        raised = min(raised, summary.positions)
    if (lost := summary.longer_than(raised)) < long:
        words = f"leaves {lost:,} rows too long" if lost else "keeps all rows whole, and takes more memory"
        yield lost, f"--max-length {raised}", words
    if summary.documents == long:
        yield 0, "--too-long split", "keeps all text, long documents in pieces"
    if summary.stay_long < long:
        lost = summary.stay_long
        words = f"{lost:,} rows, and" if lost else "no row, but"
        yield lost, "--too-long drop_turns", f"loses {words} the oldest turns of long ones"
    yield long, "--too-long drop", f"loses {long:,} rows, {_percent(long, summary.good)}"


def long_rows_line(summary: RowSummary, limit: int, on_too_long: str) -> str:
    """What will become of them; "" where there are none."""
    long = summary.longer_than(limit)
    if not long:
        return ""
    becomes = {
        "drop": "will be dropped",
        "split": "will be split into pieces",
        "drop_turns": f"lose their oldest turns, and {summary.stay_long:,} of them do not fit even so: dropped",
    }
    return f"{summary.share(long)} are longer than {limit:,} tokens and {becomes[on_too_long]}"
