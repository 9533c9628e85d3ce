"""Rows as the columns that a model's family reads. Families have their own encoders (`ft.families`); whoever prepares,
shows or counts rows reads them by what all have in common, which stands here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ft.data.formats.fields import BadRow
from ft.data.formats.fields import Row as Row
from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.truncation import Counts

if TYPE_CHECKING:
    import pyarrow as pa

ArrowColumn = tuple[str, "pa.DataType"]
EncodedRow = dict[str, Any]
"""A row as ids. Every family has `input_ids`, `labels` (IGNORE_INDEX where nothing is trained) and `roles`, one for
each token in the order they are read (an index into `conversation.ROLES`); what else a row holds is the family's."""

Encoded = EncodedRow | list[EncodedRow] | BadRow | None
"""What becomes of a row: its columns, or those of the rows that it is taken apart into (a document that is split, an
encoder-decoder's answers); what is wrong with it; or None where it is too long and to be dropped."""


def encoded_rows(encoded: Encoded) -> list[EncodedRow]:
    """The rows that one row became, none where it is refused or dropped."""
    if isinstance(encoded, list):
        return encoded
    return [encoded] if isinstance(encoded, dict) else []


class Encoder(Protocol):
    """Encodes rows for one processor.

    counts  what became of rows that are too long
    notes   what a person should know of the template or the tokenizer
    """

    counts: Counts
    notes: tuple[str, ...]

    def arrow_columns(self) -> list[ArrowColumn]:
        """The columns that `encode_batch` returns, as Arrow holds them."""

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        """What becomes of each row."""

    def bounded_length(self, row: EncodedRow) -> int:
        """Tokens of a row as max_length counts them."""


class RowTokens(NamedTuple):
    """A row's tokens in the order they are read, each with its role (an index into ROLES) and whether it is trained."""

    ids: list[int]
    roles: list[int]
    trained: list[bool]

    def part(self, start: int, end: int) -> RowTokens:
        return RowTokens(self.ids[start:end], self.roles[start:end], self.trained[start:end])

    def completion(self) -> tuple[int, int]:
        """First and one past the last trained token; what a template writes behind the end of an answer is left out."""
        return self.trained.index(True), len(self.trained) - self.trained[::-1].index(True)


def row_tokens(columns: Mapping[str, Any]) -> RowTokens:
    """The tokens of an encoded row. Labels stand at the ids they belong to, as in a decoder, unless `roles` counts them
    too: then they are tokens of their own, which follow the ids, as in an encoder-decoder."""
    ids, labels, roles = columns["input_ids"], columns["labels"], columns["roles"]
    trained = [label != IGNORE_INDEX for label in labels]
    if len(roles) == len(ids):
        return RowTokens(ids, roles, trained)
    return RowTokens([*ids, *labels], roles, [*[False] * len(ids), *trained])


class RowPart(NamedTuple):
    """A part of a row as people read it: all of a conversation, or a pair's prompt, chosen and rejected answer."""

    name: str
    tokens: RowTokens


def row_parts(columns: Mapping[str, Any]) -> list[RowPart]:
    """The parts of a prepared row, in order; that of a conversation has no name."""
    row, parts, start = row_tokens(columns), [], 0
    for name in ("prompt", "chosen", "rejected"):
        if ids := columns.get(f"{name}_ids"):
            parts.append(RowPart(name, row.part(start, start + len(ids))))
            start += len(ids)
    return parts or [RowPart("", row)]


def id_columns(*names: str) -> list[ArrowColumn]:
    """EncodedRow of token ids."""
    import pyarrow as pa  # a fifth of what `ft plan` takes, and it prepares nothing

    return [(name, pa.list_(pa.int32())) for name in names]


def roles_column() -> ArrowColumn:
    import pyarrow as pa

    return ("roles", pa.list_(pa.int8()))
