"""A few rows as the trainer gets them, read without the libraries that train: Arrow and the tokenizer's own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.report.parts import MaskedRows
from ft.report.run import ReportedStage, Run
from ft.tools.show import ShownPart, margins_of, shown_row, visible_tokens

ROWS = 2
MOST_TOKENS = 360  # of a row, or of a part of a pair


@dataclass(frozen=True)
class TokenRun:
    """Neighbouring tokens with the same role and use, as one text."""

    text: str
    role: str
    trained: bool


@dataclass(frozen=True)
class MaskedPart:
    """All of a conversation, without a name, or a pair's prompt, chosen or rejected answer."""

    name: str
    title: str
    words: tuple[TokenRun, ...]
    hidden: int  # tokens of its end that are not shown


@dataclass(frozen=True)
class MaskedRow:
    where: str
    facts: str
    parts: tuple[MaskedPart, ...]


def masked_rows(stage: ReportedStage, run: Run) -> MaskedRows | str:
    """The first rows; or why there are none to show."""
    file = stage.rows / artifacts.TRAIN_ROWS if stage.rows else None
    if file is None or not file.is_file():
        return "Rows not prepared yet: ft plan --prepare."
    tokenizer = _tokenizer(stage, run)
    if tokenizer is None:
        return "No tokenizer is at hand that could spell the rows; `ft show` does."
    try:
        rows = [_row(row, tokenizer, stage) for row in _first(file, ROWS)]
    except (OSError, ValueError, KeyError) as error:
        return f"The prepared rows cannot be read: {error}"
    parts = [part for row in rows for part in row.parts]
    roles = dict.fromkeys(words.role for part in parts for words in part.words if not words.trained)
    return MaskedRows(tuple(rows), tuple(roles))


def _first(file: Path, count: int) -> list[dict[str, Any]]:
    import pyarrow as pa

    with pa.OSFile(str(file), "rb") as source, pa.ipc.open_stream(source) as stream:
        batch = next(iter(stream), None)
        rows: list[dict[str, Any]] = batch.slice(0, count).to_pylist() if batch is not None else []
    return rows


class _Spells:
    """A tokenizer's own file with the two things that `ft.tools.show` asks of a tokenizer."""

    def __init__(self, file: Path):
        from tokenizers import Tokenizer

        self._own = Tokenizer.from_file(str(file))
        self.added_tokens_decoder = self._own.get_added_tokens_decoder()

    def decode(self, ids: Sequence[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        text: str = self._own.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def _tokenizer(stage: ReportedStage, run: Run) -> _Spells | None:
    """Of the stage, or of the nearest one up the chain that has any; tokenizers travel down unchanged."""
    visited: list[str] = []
    while True:
        folders = [stage.result.folder, *([Path(stage.model)] if stage.model else [])]
        for file in (folder / artifacts.TOKENIZER for folder in folders):
            if file.is_file():
                return _Spells(file)
        parent = next((name for name, role in stage.links if role == "init"), None)
        above = run.get(parent) if parent and parent not in visited else None
        if above is None:
            return None
        visited.append(above.name)
        stage = above


def _row(row: dict[str, Any], tokenizer: Any, stage: ReportedStage) -> MaskedRow:
    shown = shown_row(row, tokenizer, MOST_TOKENS, margins_of(stage.blocks, stage.kind))
    where = row["where"].rsplit("/", 1)[-1]
    return MaskedRow(where, shown.facts, tuple(map(_part, shown.parts)))


def _part(part: ShownPart) -> MaskedPart:
    words = []
    for (role, trained), group in groupby(visible_tokens(part), key=lambda pair: (pair[0].role, pair[0].trained)):
        words.append(TokenRun("".join(text for _, text in group), role, trained))
    return MaskedPart(part.name, part.title if part.name else "", tuple(words), part.hidden)
