"""Rows of families that read a prompt as a whole: one row for each stretch that is trained, with all before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby

from ft.data.formats.fields import BadRow
from ft.encode.conversation import RenderedRow, Renderer
from ft.encode.encoder import ArrowColumn, Encoded, EncodedRow, Row, id_columns, roles_column
from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.truncation import pieces


class PromptRowEncoder(ABC):
    """Encodes a conversation of which three answers are trained as three rows, each with its own prompt: every token of
    a prompt sees all of it, so none of it can be trained at once. A family says what of a document is its prompt."""

    def __init__(self, renderer: Renderer):
        self.renderer = renderer
        self.counts, self.notes = renderer.counts, renderer.notes

    @abstractmethod
    def prompt_row(self, row: RenderedRow, start: int, end: int, first: int = 0) -> EncodedRow | BadRow:
        """The row whose prompt is the tokens from `first` to `start`, and whose answer goes on to `end`."""

    @abstractmethod
    def document_start(self, ids: Sequence[int]) -> int:
        """How many tokens of a document are its prompt."""

    @abstractmethod
    def bounded_length(self, row: EncodedRow) -> int:
        """Tokens of a row as max_length counts them."""

    def arrow_columns(self) -> list[ArrowColumn]:
        return [*id_columns("input_ids", "labels"), roles_column()]

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        rendered = self.renderer.render_batch(rows)
        return [self._columns(row) if isinstance(row, RenderedRow) else row for row in rendered]

    def _columns(self, row: RenderedRow) -> EncodedRow | list[EncodedRow] | BadRow:
        is_document = not any(row.roles) and IGNORE_INDEX not in row.labels
        parts = self._pieces(row) if is_document else [self.prompt_row(row, *ends) for ends in _stretches(row.labels)]
        good = [part for part in parts if not isinstance(part, BadRow)]
        if bad := next((part for part in parts if isinstance(part, BadRow)), None):
            return bad
        return good[0] if len(good) == 1 else good

    def _pieces(self, row: RenderedRow) -> list[EncodedRow | BadRow]:
        length, most = len(row.input_ids), self.renderer.max_length
        places = pieces(length, most) if most is not None and length > most else [slice(0, length)]
        self.counts.pieces += len(places) if len(places) > 1 else 0
        starts = [place.start + self.document_start(row.input_ids[place]) for place in places]
        return [
            self.prompt_row(row, start, place.stop, place.start) for start, place in zip(starts, places, strict=True)
        ]


def _stretches(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and one past the last token of each run of trained tokens."""
    for is_trained, run in groupby(range(len(labels)), key=lambda place: labels[place] != IGNORE_INDEX):
        places = list(run)
        if is_trained:
            yield places[0], places[-1] + 1
