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
from ft.data.formats.preferences import RATINGS
from ft.encode.conversation import ROLES
from ft.encode.encoder import RowTokens, row_parts, row_tokens
from ft.encode.prepare import rows_folder, single_rows
from ft.encode.token_text import text_pieces
from ft.errors import fail
from ft.files import read_json
from ft.models.processor import tokenizer_of
from ft.results.store import Plan, PlannedStage
from ft.run.rows import prepare_rows, rows_line
from ft.secrets import hide_in_pieces
from ft.stages import STAGES

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
PART_STYLES = {"chosen": "bold green", "rejected": "bold red"}


@dataclass(frozen=True)
class Token:
    """A token of a row (several, where only together they spell a character), and what it is for."""

    text: str
    ids: tuple[int, ...]
    role: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class ShownPart:
    """All of a conversation, without a name, or a pair's prompt, chosen or rejected answer; `hidden` tokens of its end
    are left out."""

    name: str
    tokens: tuple[Token, ...]
    length: int
    hidden: int = 0

    @property
    def title(self) -> str:
        """'chosen ↑ · 21 tokens'"""
        return f"{self.name}{ARROWS.get(self.name, '')} · {self.length:,} tokens"


ARROWS = {"chosen": " ↑", "rejected": " ↓"}
"""What training does to the likelihood, or the score, of an answer."""


@dataclass(frozen=True)
class ShownRow:
    """A row; of a pair `note` says its rating and its margin."""

    where: str
    parts: tuple[ShownPart, ...]
    trained: int
    note: str = ""

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(token for part in self.parts for token in part.tokens)

    @property
    def length(self) -> int:
        return sum(part.length for part in self.parts)

    @property
    def is_pair(self) -> bool:
        return len(self.parts) > 1

    @property
    def facts(self) -> str:
        """'64 tokens, 12 trained', or of a pair what it is rated."""
        return self.note if self.is_pair else f"{self.length:,} tokens, {self.trained:,} trained"


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
    def has_pairs(self) -> bool:
        return any(row.is_pair for row in self.rows)

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
    margins = margins_of(planned.stage.blocks, planned.stage.kind_name)
    return RowsView(
        recipe=plan.recipe.name,
        stage=planned.name,
        folder=folder,
        max_length=planned.rows_key["max_length"],
        stats=read_json(folder / artifacts.STATS),
        rows=tuple(shown_row(row, tokenizer, margins=margins) for row in first_rows),
    )


def _first_with_rows(plan: Plan) -> PlannedStage:
    view = next((p for p in plan.stages if p.rows_key is not None), None)
    if view is None:
        raise fail(str(plan.recipe.file), "no stage of it prepares rows", "A stage of kind sft does.")
    return view


def margins_of(blocks: Mapping[str, Mapping[str, Any]], kind_name: str) -> Mapping[int, float]:
    """Rating → margin of a stage that learns one; empty where it learns none."""
    kind = STAGES.get(kind_name)
    if kind is None or "reward_model" not in kind.leaves or "reward" not in blocks:
        return {}
    margins: Mapping[int, float] | None = kind.blocks["reward"].load()(**blocks["reward"]).margins
    return margins or {}


def shown_row(
    columns: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    most: int | None = None,
    margins: Mapping[int, float] | None = None,
) -> ShownRow:
    """A prepared row token by token, each with its role and whether it is trained; at most so many of each part."""
    parts = []
    for name, row in row_parts(columns):
        length = len(row.ids)
        shown = min(most or length, length)
        parts.append(ShownPart(name, _tokens(row.part(0, shown), tokenizer), length, length - shown))
    rating: int | None = columns.get("rating")
    notes = [f"rating {rating} ({RATINGS[rating - 1]})"] if rating else []
    margin = (margins or {}).get(rating or 0)
    notes += [f"margin {margin:g}"] if margin is not None else []
    return ShownRow(columns["where"], tuple(parts), sum(row_tokens(columns).trained), ", ".join(notes))


def _tokens(row: RowTokens, tokenizer: PreTrainedTokenizerBase) -> tuple[Token, ...]:
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    tokens, place = [], 0
    for piece in text_pieces(tokenizer, row.ids):
        role, trained = ROLES[row.roles[place]], row.trained[place]
        tokens.append(Token(piece.text, piece.ids, role, trained, piece.ids[0] in special))
        place += len(piece.ids)
    return tuple(tokens)


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


def visible_tokens(part: ShownPart) -> Iterator[tuple[Token, str]]:
    """Each token with its visible text, in which its neighbours have a say."""
    texts = hide_in_pieces([token.text for token in part.tokens])
    marks = visible("".join(texts))
    place = 0
    for token, text in zip(part.tokens, texts, strict=True):
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
            **({"parts": {part.name: part.length for part in row.parts}, "note": row.note} if row.is_pair else {}),
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
        console.print(Text(f"\n{row.where}", style="bold"), *([f"· {row.facts}"] if row.facts else []))
        for part in row.parts:
            if part.name:
                console.print(Text(part.title, style=PART_STYLES.get(part.name, "bold")))
            console.print(_coloured_text(part) if coloured else _bracketed_text(part))
    if view.rows:
        console.print()
        console.print(_legend(view) if coloured else f"{_bracket_words(view)}⏎ line end   · blank   ⇥ tab")


def _bracket_words(view: RowsView) -> str:
    return "" if view.has_pairs else "⟦ ⟧ trained   "


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


def _coloured_text(part: ShownPart) -> Text:
    text = Text()
    for style, group in groupby(visible_tokens(part), key=lambda pair: _style(pair[0], part.name)):
        text.append("".join(words for _, words in group), style=style)
    return text


def _style(token: Token, part: str = "") -> str:
    style = PART_STYLES.get(part, TRAINED) if token.trained else ROLE_STYLES[token.role]
    return f"{style} {SPECIAL}" if token.special else style


def _bracketed_text(part: ShownPart) -> str:
    texts = []
    for trained, group in groupby(visible_tokens(part), key=lambda pair: pair[0].trained):
        words = "".join(text for _, text in group)
        texts.append(f"⟦{words}⟧" if trained and not part.name else words)  # a pair's parts say what they are
    return "".join(texts)


def _legend(view: RowsView) -> Text:
    text = Text()
    for name in ARROWS if view.has_pairs else ():
        text.append(f"{name}{ARROWS[name]}   ", style=PART_STYLES[name])
    text.append("" if view.has_pairs else "trained", style=TRAINED)
    for role, count, trained in view.roles:
        if trained < count:
            text.append("   ").append(f"{role}, only read", style=ROLE_STYLES[role])
    return text.append("   ").append("special token", style=SPECIAL).append("   ⏎ line end   · blank   ⇥ tab")
