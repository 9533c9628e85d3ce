"""Rows as the trainer gets them: every token, who said it, whether it is trained, and what became of all rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ft import artifacts
from ft.encode.conversation import ROLES
from ft.encode.encoder import RowTokens, row_tokens
from ft.encode.prepare import rows_folder, single_rows
from ft.encode.token_text import text_pieces
from ft.errors import fail
from ft.files import read_json
from ft.models.processor import tokenizer_of
from ft.results.store import Plan, PlannedStage
from ft.run.rows import prepare_rows, rows_line
from ft.secrets import hide_in_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLE_STYLES = {
    "template": "bright_black",
    "system": "magenta dim",
    "user": "cyan dim",
    "assistant": "yellow dim",
    "tool": "blue dim",
}
TRAINED, SPECIAL = "bold green", "underline"


@dataclass(frozen=True)
class Token:
    """A token of a row (several, where only together they spell a character), and what it is for."""

    text: str
    ids: tuple[int, ...]
    role: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class ShownRow:
    where: str
    tokens: tuple[Token, ...]

    @property
    def length(self) -> int:
        return sum(len(token.ids) for token in self.tokens)

    @property
    def trained(self) -> int:
        return sum(len(token.ids) for token in self.tokens if token.trained)


@dataclass(frozen=True)
class RowsView:
    """What there is to show of a stage: the counts of all its rows, and the first of them token by token."""

    recipe: str
    stage: str
    folder: Path
    max_length: int
    stats: Mapping[str, Any]
    rows: tuple[ShownRow, ...]

    @property
    def roles(self) -> list[tuple[str, int, int]]:
        """(role, tokens, trained tokens) of all training rows."""
        train = self.stats["train"]
        return [(role, count, train["trained_by_role"].get(role, 0)) for role, count in train["by_role"].items()]

    @property
    def bins(self) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of each bar of the length histogram."""
        view, above = [], 0
        for bar in self.stats["train"]["lengths"]["bins"]:
            view.append((above + 1, bar["up_to"], bar["rows"]))
            above = bar["up_to"]
        return view

    @property
    def quantiles(self) -> dict[str, int]:
        """Of the rows' lengths in tokens: median, p90, p99, longest."""
        view: dict[str, int] = self.stats["train"]["lengths"]["quantiles"]
        return view


def view_rows(plan: Plan, stage: str | None, rows: int) -> RowsView:
    """The stage's prepared rows, prepared now if they are not there. Raises UserError."""
    planned = plan.stage(stage) if stage else _first_with_rows(plan)
    if planned.rows_key is None:
        names = ", ".join(p.name for p in plan.stages if p.rows_key is not None)
        fix = f"These do: {names}." if names else "No stage of this recipe does."
        raise fail(planned.stage.where, f"'{planned.name}' prepares no rows", fix)
    prepare_rows(plan, planned)
    folder = rows_folder(plan.runs, planned.rows_key)
    tokenizer = tokenizer_of(
        plan.recipe.model_of(planned.stage), plan.tokenizer_folder(planned), plan.recipe.chat_template
    )
    prepared = single_rows(folder)
    first_rows = (prepared[place] for place in range(min(rows, len(prepared))))
    return RowsView(
        recipe=plan.recipe.name,
        stage=planned.name,
        folder=folder,
        max_length=planned.rows_key["max_length"],
        stats=read_json(folder / artifacts.STATS),
        rows=tuple(shown_row(row["where"], row_tokens(row), tokenizer) for row in first_rows),
    )


def _first_with_rows(plan: Plan) -> PlannedStage:
    view = next((p for p in plan.stages if p.rows_key is not None), None)
    if view is None:
        raise fail(str(plan.recipe.file), "no stage of it prepares rows", "A stage of kind sft does.")
    return view


def shown_row(where: str, row: RowTokens, tokenizer: PreTrainedTokenizerBase) -> ShownRow:
    """A prepared row token by token, each with its role and whether it is trained."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens, place = [], 0
    for piece in text_pieces(tokenizer, row.ids):
        role, trained = ROLES[row.roles[place]], row.trained[place]
        tokens.append(Token(piece.text, piece.ids, role, trained, piece.ids[0] in special))
        place += len(piece.ids)
    return ShownRow(where, tuple(tokens))


def visible(text: str) -> list[str]:
    """Each character as an eye can see it: line ends, tabs, what has no shape, and blanks beside other blanks or ends.

    One blank between two words stays a blank.
    """
    return [
        _visible(char, text[max(place - 1, 0) : place], text[place + 1 : place + 2]) for place, char in enumerate(text)
    ]


def _visible(char: str, before: str, after: str) -> str:
    if char == " ":
        return " " if before.strip() and after.strip() else "·"
    if char == "\n":
        return "⏎\n"
    if char == "\t":
        return "⇥"
    shapeless = unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co", "Zl", "Zp", "Zs")
    return f"⟨U+{ord(char):04X}⟩" if shapeless else char


def visible_tokens(row: ShownRow) -> Iterator[tuple[Token, str]]:
    """Each token with its visible text, in which its neighbours have a say."""
    texts = hide_in_pieces([token.text for token in row.tokens])
    marks = visible("".join(texts))
    place = 0
    for token, text in zip(row.tokens, texts, strict=True):
        yield token, "".join(marks[place : place + len(text)])
        place += len(text)


def rows_as_json(view: RowsView) -> dict[str, Any]:
    rows = [
        {
            "where": row.where,
            "length": row.length,
            "trained": row.trained,
            "tokens": [
                {"ids": list(t.ids), "text": text, "role": t.role, "trained": t.trained, "special": t.special}
                for t, text in zip(row.tokens, hide_in_pieces([t.text for t in row.tokens]), strict=True)
            ],
        }
        for row in view.rows
    ]
    return {"recipe": view.recipe, "stage": view.stage, "folder": str(view.folder), **view.stats, "shown": rows}


# On a terminal


def print_rows(view: RowsView, console: Console) -> None:
    """Counts, histogram, then the rows; without colours trained text stands in ⟦ ⟧."""
    console.print(f"{view.stage}: {rows_line(view.stats)}\n")
    console.print(_roles_table(view))
    quantiles = ", ".join(f"{name} {length:,}" for name, length in view.quantiles.items())
    console.print(f"\nrows by length in tokens: {quantiles}; max_length {view.max_length:,}")
    for line in _histogram(view):
        console.print(line)
    coloured = console.color_system is not None
    for row in view.rows:
        console.print(Text(f"\n{row.where}", style="bold"), f"· {row.length:,} tokens, {row.trained:,} trained")
        console.print(_coloured_text(row) if coloured else _bracketed_text(row))
    if view.rows:
        console.print()
        console.print(_legend(view) if coloured else "⟦ ⟧ trained   ⏎ line end   · blank   ⇥ tab")


def _roles_table(view: RowsView) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("role")
    for name in ("tokens", "trained", "share trained"):
        table.add_column(name, justify="right")
    for role, count, trained in view.roles:
        share = f"{trained / count:.0%}" if trained else "·"
        table.add_row(Text(role, style=ROLE_STYLES[role]), f"{count:,}", f"{trained:,}" if trained else "·", share)
    return table


def _histogram(view: RowsView) -> Iterator[str]:
    most = max((rows for _, _, rows in view.bins), default=1) or 1
    for low, high, rows in view.bins:
        eighths = -(-rows * 40 * 8 // most)
        bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
        yield f"{low:>7,} to {high:>6,} {rows:>9,} {bar}".rstrip()


def _coloured_text(row: ShownRow) -> Text:
    text = Text()
    for style, group in groupby(visible_tokens(row), key=lambda pair: _style(pair[0])):
        text.append("".join(words for _, words in group), style=style)
    return text


def _style(token: Token) -> str:
    style = TRAINED if token.trained else ROLE_STYLES[token.role]
    return f"{style} {SPECIAL}" if token.special else style


def _bracketed_text(row: ShownRow) -> str:
    parts = []
    for trained, group in groupby(visible_tokens(row), key=lambda pair: pair[0].trained):
        words = "".join(text for _, text in group)
        parts.append(f"⟦{words}⟧" if trained else words)
    return "".join(parts)


def _legend(view: RowsView) -> Text:
    text = Text().append("trained", style=TRAINED)
    for role, count, trained in view.roles:
        if trained < count:
            text.append("   ").append(f"{role}, only read", style=ROLE_STYLES[role])
    return text.append("   ").append("special token", style=SPECIAL).append("   ⏎ line end   · blank   ⇥ tab")
