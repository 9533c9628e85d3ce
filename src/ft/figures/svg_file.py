"""A drawing as a file of its own, with title, legend and colours inside."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from markupsafe import Markup

from ft.figures.axes import WIDTH, short, text
from ft.figures.charts import Chart
from ft.figures.draw import element, height, legend_shapes

FOLDER = Path(__file__).parent
GAP = 24


def figure_file(heading: str, charts: Sequence[Chart]) -> str:
    """Charts side by side as an SVG file that looks right by itself: in a browser, an editor, a document."""
    cells = [_cell(chart, f"chart-{number}") for number, chart in enumerate(charts, 1)]
    columns = _columns(len(cells))
    inside, top = [text(GAP, 30, heading, "start", "heading")], 46.0
    for first in range(0, len(cells), columns):
        row = cells[first : first + columns]
        for place, (cell, _) in enumerate(row):
            inside.append(_placed_at(GAP + place * (WIDTH + GAP), top, cell))
        top += max(tall for _, tall in row) + GAP
    start = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="name" viewBox="0 0 {0} {1}" width="{0}" '
        'height="{1}"><title id="name">{2}</title><style>{3}</style><rect width="100%" height="100%" class="paper"/>'
    ).format(GAP + columns * (WIDTH + GAP), short(top), heading, Markup(_file_style()))
    return f"{start}{Markup('').join(inside)}</svg>\n"


def _placed_at(x: float, y: float, shape: Markup) -> Markup:
    return Markup('<g transform="translate({} {})">{}</g>').format(short(x), short(y), shape)


def _columns(count: int) -> int:
    return 2 if count in (2, 4) else min(count, 3)


def _cell(chart: Chart, name: str) -> tuple[Markup, float]:
    """Title, legend, drawing and caption below each other, and how tall they are."""
    parts = [text(0, 14, chart.title, "start", "title")]
    x, y = 0.0, 34.0
    for label, shape in legend_shapes(chart):
        width = 32 + 6.4 * len(label)  # as wide as letters are on average; a name is never cut
        if x and x + width > WIDTH:
            x, y = 0.0, y + 17
        parts += [_placed_at(x, y - 9, shape), text(x + 27, y, label, "start")]
        x += width + 8
    y += 10 if x else -12
    tall = height(chart)
    parts.append(element(chart, name, Markup('y="{}" width="{}" height="{}"').format(short(y), WIDTH, short(tall))))
    y += tall + 14
    for line in textwrap.wrap(chart.caption, 58):
        parts.append(text(0, y, line, "start"))
        y += 15
    return Markup("").join(parts), y


@cache
def colours_css() -> str:
    """The colours of all drawings, light and dark, as variables of a page."""
    return (FOLDER / "colours.css").read_text(encoding="utf-8")


@cache
def chart_css() -> str:
    """The shapes of all drawings, in those colours."""
    return (FOLDER / "chart.css").read_text(encoding="utf-8")


@cache
def _file_style() -> str:
    """The same with the light colours written out, since editors know neither variables nor `light-dark`; browsers
    take the dark ones where the reader's screen is dark."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", colours_css())

    def css(side: int) -> str:
        colour = {pair[0]: pair[side] for pair in pairs}
        return re.sub(r"var\(--([\w-]+)\)", lambda variable: colour[variable[1]], chart_css())

    return f"{css(1)}@media (prefers-color-scheme: dark) {{ {css(2)} }}"
