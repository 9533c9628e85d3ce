"""Tables that lose nothing in a narrow terminal: no cell is cut; what finds no place stands below its row, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

GAP = "  "  # between columns
NARROWEST = 20  # of a column that wraps at words
INDENT = "    "
NOTHING = ("", "·")

Cells = Sequence[Text]


@dataclass(frozen=True)
class Column:
    """A column: `rank` 0 always stays, of the others the highest leaves first; `wraps` at words, the others never."""

    name: str
    rank: int = 0
    right: bool = False
    wraps: bool = False


def print_table(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
    """Print rows under the names of their columns, as many columns as the console is wide enough for."""
    header = [Text(column.name, style="bold") for column in columns]
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = _widths(columns, [header, *cells], console.width)
    for row in (header, *cells):
        for line in _lines(console, columns, row, widths):
            console.print(line, soft_wrap=True)
        for line in _below(header, row, widths, console.width) if row is not header else ():
            console.print(line, soft_wrap=True)


def _widths(columns: Sequence[Column], rows: Sequence[Cells], width: int) -> dict[int, int]:
    """Place of each column that stays → its width."""
    full = {place: max(row[place].cell_len for row in rows) for place in range(len(columns))}
    least = {place: min(wide, NARROWEST) if columns[place].wraps else wide for place, wide in full.items()}
    by_rank = sorted((place for place in full if columns[place].rank), key=lambda place: columns[place].rank)
    while by_rank and _total(least) > width:
        del least[by_rank.pop()]
    spare = width - _total(least)
    for place in (place for place in least if columns[place].wraps):
        more = max(0, min(full[place] - least[place], spare))
        least[place], spare = least[place] + more, spare - more
    return least


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _lines(console: Console, columns: Sequence[Column], row: Cells, widths: dict[int, int]) -> Iterator[Text]:
    """The lines of one row: one, or as many as its wrapped cells need."""
    wrapped = [
        row[place].wrap(console, wide) if columns[place].wraps else [row[place]] for place, wide in widths.items()
    ]
    for parts in zip_longest(*wrapped, fillvalue=Text()):
        line = Text()
        for part, (place, wide) in zip(parts, widths.items(), strict=True):
            blank = " " * (wide - part.cell_len)
            line.append_text(Text(GAP if line else "")).append_text(_aligned(part, blank, columns[place].right))
        line.rstrip()
        yield line


def _aligned(part: Text, blank: str, right: bool) -> Text:
    return Text(blank).append_text(part) if right else Text().append_text(part).append(blank)


def _below(header: Cells, row: Cells, widths: dict[int, int], width: int) -> Iterator[Text]:
    """What has no column: names and values, indented, as many on a line as it has room for."""
    absent = [place for place in range(len(row)) if place not in widths and row[place].plain not in NOTHING]
    line = ""
    for words in (f"{header[place].plain} {row[place].plain}" for place in absent):
        longer = f"{line} · {words}" if line else INDENT + words
        if line and cell_len(longer) > width:
            yield Text(line, style="dim")
            longer = INDENT + words
        line = longer
    if line:
        yield Text(line, style="dim")
