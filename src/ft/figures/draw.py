"""The one drawing of every chart: SVG that is small, named, described, and in the colours of the page around it.

`draw` gives the element a page inlines; `figure_file` the same drawing as a file of its own, with title, legend and
colours inside. Colours are classes (`chart.css`), so that light, dark and printed pages share one drawing.
"""

from __future__ import annotations

import base64
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ft.figures.charts import (
    Chart,
    Dots,
    HeatMap,
    Histogram,
    Lines,
    Point,
    Scatter,
    Series,
    Shares,
    interval,
)

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 22, 38  # margins of the axes; TOP has room for the label of the y axis
ROW, LABELS, ROWS_TOP = 26, 112, 10
COLOURS = 6
MOST_DOTTED = 40  # a line of fewer points has a dot at each
KNOWN = {"after": 0, "before": 5, "ablation": 1, "training rows": 5, "held out": 0, "ties": 5}
"""The same thing has the same colour in every chart; other names take the colours in order."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as places from `start` to `end`, with the round values to label."""

    low: float
    high: float
    start: float
    end: float
    marks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 4, least: float = 1e-300) -> list[float]:
    """Round values from `low` or below to `high` or above: steps of 1, 2 or 5 times a power of ten, about `count`, none
    below `least` (by default what is still a float)."""
    span = (high - low) or abs(high) or 1.0
    rough = max(span / count, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # rounding takes away 0.30000000000000004, and keeps ten digits of the step however small it is
    digits = 10 - min(0, math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, max(last, first + 1) + 1)]


def colours(names: Sequence[str]) -> list[int]:
    """A colour each, by name where the name is known; what was held out has that of its training rows."""
    kinds = [name.removesuffix(", held out").removesuffix(", training rows") for name in names]
    fixed = {KNOWN[kind] for kind in kinds if kind in KNOWN}
    free = [colour for colour in range(COLOURS) if colour not in fixed] or [*range(COLOURS)]
    new = [kind for kind in dict.fromkeys(kinds) if kind not in KNOWN]
    by_kind = {kind: free[place % len(free)] for place, kind in enumerate(new)} | KNOWN
    return [by_kind[kind] for kind in kinds]


def draw(chart: Chart, name: str) -> Markup:
    """The chart as an SVG element; `name` makes the ids of its title and description its own."""
    return _element(chart, name, Markup('class="chart" role="img"'))


def _element(chart: Chart, name: str, attributes: Markup) -> Markup:
    head = Markup(
        '<svg {0} aria-labelledby="{1}-t" aria-describedby="{1}-d" viewBox="0 0 {2} {3}">'
        '<title id="{1}-t">{4}</title><desc id="{1}-d">{5}</desc>'
    ).format(attributes, name, WIDTH, _short(height(chart)), chart.title, chart.description)
    return head + Markup("").join(_DRAWINGS[type(chart)](chart, name)) + Markup("</svg>")


def height(chart: Chart) -> float:
    """In the units of the drawing, which is WIDTH wide."""
    if isinstance(chart, Dots):
        return ROWS_TOP + ROW * len(chart.rows_of_dots) + BOTTOM
    if isinstance(chart, Shares):
        return ROWS_TOP + ROW * len(chart.counts) + BOTTOM
    return WIDTH - LEFT - RIGHT + TOP + BOTTOM if isinstance(chart, HeatMap) else HEIGHT


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>').format(
        _short(x), _short(y), anchor, Markup(' class="{}"').format(style) if style else "", text
    )


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    places = (_short(v) for v in (x1, y1, x2, y2))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*places, style)


def _dot(x: float, y: float, radius: float, colour: int) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="{}" class="dot c{}"/>').format(_short(x), _short(y), radius, colour)


# Axes


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _value_scale(values: Sequence[float], share: bool = False) -> Scale:
    """Up to round values around the data; shares from 0 to 1."""
    known = values or [0.0, 1.0]
    marks = ticks(0, 1) if share and min(known) >= 0 and max(known) <= 1 else ticks(min(known), max(known))
    return Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, tuple(marks))


def _place_scale(values: Sequence[float]) -> Scale:
    """As far as the data goes, a single value in the middle. Whole numbers (steps, turns) have whole labels."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    least = 1.0 if all(value == int(value) for value in values) else 1e-300
    marks = tuple(mark for mark in ticks(low, high, 5, least) if low <= mark <= high)
    return Scale(low, high, LEFT, WIDTH - RIGHT, marks)


def _y_axis(up: Scale, share: bool, label: str) -> Iterator[Markup]:
    if label:
        yield _text(0, 9, label, "start", "name")
    for value in up.marks:
        yield _rule(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
        yield _text(LEFT - 6, up(value) + 4, _tick(value, share), "end")


def _tick(value: float, share: bool) -> str:
    return f"{value:.0%}" if share else f"{value:,.6g}" if abs(value) < 1e5 else f"{value:.0e}"


def _x_axis(across: Scale, label: str) -> Iterator[Markup]:
    yield _rule(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
    for value in across.marks:
        anchor = "end" if across(value) > WIDTH - RIGHT - 8 else "middle"
        yield _text(across(value), HEIGHT - BOTTOM + 15, _tick(value, False), anchor)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label, style="name")


# Lines


def scales(chart: Lines) -> tuple[Scale, Scale]:
    """The axes of a line chart: places across, values up; both of the finite points."""
    points = [point for series in chart.series for point in series.finite_points]
    values = _finite([y for p in points for y in (p.y, *(interval(p.low, p.high) or ()))])
    return _place_scale([point.x for point in points]), _value_scale(values, chart.share)


def _lines(chart: Lines, name: str) -> Iterator[Markup]:
    across, up = scales(chart)
    yield from _y_axis(up, chart.share, chart.y)
    yield from _x_axis(across, chart.x)
    if chart.level is not None and up.low <= chart.level <= up.high:
        yield _rule(LEFT, up(chart.level), WIDTH - RIGHT, up(chart.level), "level")
    if chart.diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        yield _rule(across(low), up(low), across(high), up(high), "level")
    coloured = list(zip(colours(chart.names), chart.series, strict=True))
    for colour, series in coloured:
        yield from _band(series, across, up, colour)
    for colour, series in sorted(coloured, key=lambda pair: not pair[1].thin):
        yield from _line(series, across, up, colour)


def path(points: Sequence[Point], across: Scale, up: Scale) -> str:
    """'M46 182L198 97': the line through the points."""
    return "M" + "L".join(f"{_short(across(p.x))} {_short(up(p.y))}" for p in points)


def unbroken(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The runs of finite points: a line has a gap where a value is none."""
    run: list[Point] = []
    for point in points:
        if point.is_finite:
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _line(series: Series, across: Scale, up: Scale, colour: int) -> Iterator[Markup]:
    runs = list(unbroken(series.points))
    ways = "".join(path(run, across, up) for run in runs if len(run) > 1)
    if ways:
        thin = " thin" if series.thin else ""
        yield Markup('<path d="{}" class="line c{}{}"/>').format(ways, colour, thin)
    dotted = len(series.points) < MOST_DOTTED and not series.thin
    for run in runs:
        for point in run if dotted or len(run) == 1 else ():
            yield _dot(across(point.x), up(point.y), 2.2, colour)


def _band(series: Series, across: Scale, up: Scale, colour: int) -> Iterator[Markup]:
    """The intervals as a band; a single point has a whisker."""
    known = [(p.x, ends) for p in series.finite_points if (ends := interval(p.low, p.high))]
    if len(known) > 1:
        there = [Point(x, high) for x, (_, high) in known]
        back = [Point(x, low) for x, (low, _) in reversed(known)]
        yield Markup('<path d="{}Z" class="band c{}"/>').format(path([*there, *back], across, up), colour)
    else:
        for x, (low, high) in known:
            yield _rule(across(x), up(low), across(x), up(high), f"whisker c{colour}")


# Rows: dots and shares


def _row_scale(values: Sequence[float], share: bool) -> tuple[Scale, list[float]]:
    marks = ticks(0, 1) if share else ticks(min([0.0, *values]), max([0.0, *values]))
    return Scale(marks[0], marks[-1], LABELS, WIDTH - RIGHT - 8), marks


def _row_axes(across: Scale, marks: Sequence[float], labels: Sequence[str], x: str, share: bool) -> Iterator[Markup]:
    bottom = ROWS_TOP + ROW * len(labels)
    for mark in marks:
        yield _rule(across(mark), ROWS_TOP, across(mark), bottom, "grid")
        yield _text(across(mark), bottom + 15, _tick(mark, share))
    yield _text((LABELS + WIDTH - RIGHT) / 2, bottom + 33, x, style="name")
    for place, label in enumerate(labels):
        cut = label if len(label) < 17 else label[:15] + "…"  # the table below the drawing has all of it
        yield _text(LABELS - 8, ROWS_TOP + ROW * (place + 0.5) + 4, cut, "end", "row")


def _dots(chart: Dots, name: str) -> Iterator[Markup]:
    dots = [dot for _, row in chart.rows_of_dots for dot in row]
    values = _finite([v for d in dots for v in (d.value, *(interval(d.low, d.high) or ()))])
    across, marks = _row_scale(values, chart.share and all(0 <= v <= 1 for v in values))
    yield from _row_axes(across, marks, [label for label, _ in chart.rows_of_dots], chart.x, chart.share)
    if chart.level is not None:
        yield _rule(
            across(chart.level), ROWS_TOP, across(chart.level), ROWS_TOP + ROW * len(chart.rows_of_dots), "level"
        )
    by_name = dict(zip(chart.names, colours(chart.names), strict=True))
    for place, (_, row) in enumerate(chart.rows_of_dots):
        for number, dot in enumerate(row):
            y = ROWS_TOP + ROW * (place + 0.5) + (number - (len(row) - 1) / 2) * min(7, 18 / len(row))
            if ends := interval(dot.low, dot.high):
                yield _rule(across(ends[0]), y, across(ends[1]), y, f"whisker c{by_name[dot.series]}")
            if math.isfinite(dot.value):
                yield _dot(across(dot.value), y, 3.6, by_name[dot.series])


def _shares(chart: Shares, name: str) -> Iterator[Markup]:
    across, marks = _row_scale([], share=True)
    yield from _row_axes(across, marks, [label for label, _ in chart.counts], chart.x, share=True)
    for place, (_, counts) in enumerate(chart.counts):
        known = [count if math.isfinite(count) else 0.0 for count in counts]
        total, start = sum(known) or 1.0, 0.0
        for colour, count in zip(colours(chart.names), known, strict=True):
            x, end = across(start), across(start + count / total)
            yield Markup('<rect x="{}" y="{}" width="{}" height="{}" class="bar c{}"/>').format(
                _short(x), _short(ROWS_TOP + ROW * place + 5), _short(end - x), ROW - 10, colour
            )
            start += count / total


# Histograms, scatter, heat maps


def _histogram(chart: Histogram, name: str) -> Iterator[Markup]:
    edges = _finite(chart.edges)
    if len(edges) < len(chart.edges) or len(edges) < 2:
        return  # counts without a place; `caption` says so
    shares = [(name, [c / (sum(counts) or 1) for c in counts]) for name, counts in chart.counts]
    marks = tuple(mark for mark in ticks(edges[0], edges[-1], 5) if edges[0] <= mark <= edges[-1])
    across = Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT, marks)
    up = _value_scale([0.0, *(share for _, column in shares for share in column)])
    yield from _y_axis(up, share=True, label=chart.y)
    yield from _x_axis(across, chart.x)
    for colour, (_, column) in zip(colours(chart.names), shares, strict=True):
        points = [Point(edges[0], 0.0)]
        for low, high, value in zip(edges, edges[1:], column, strict=False):
            points += [Point(low, value), Point(high, value)]
        points.append(Point(edges[-1], 0.0))
        yield Markup('<path d="{}" class="steps c{}"/>').format(path(points, across, up), colour)
    for mark in chart.marks:
        if across.low <= mark <= across.high:
            yield _rule(across(mark), TOP, across(mark), HEIGHT - BOTTOM, "level")


def _scatter(chart: Scatter, name: str) -> Iterator[Markup]:
    groups = [(name, [dot for dot in dots if all(map(math.isfinite, dot))]) for name, dots in chart.groups]
    every = [dot for _, dots in groups for dot in dots]
    across, up = _place_scale([x for x, _ in every]), _value_scale([y for _, y in every])
    yield from _y_axis(up, share=False, label=chart.y)
    yield from _x_axis(across, chart.x)
    if chart.zero and up.low <= 0 <= up.high:
        yield _rule(LEFT, up(0), WIDTH - RIGHT, up(0), "level")
    if chart.zero and across.low <= 0 <= across.high:
        yield _rule(across(0), TOP, across(0), HEIGHT - BOTTOM, "level")
    for colour, (_, dots) in zip(colours(chart.names), groups, strict=True):
        # A line of no length with round ends is a dot of nine bytes; a circle takes fifty
        way = "".join(f"M{_short(across(x))} {_short(up(y))}h0" for x, y in dots)
        yield Markup('<path d="{}" class="cloud c{}"/>').format(way, colour)


def _heat_map(chart: HeatMap, name: str) -> Iterator[Markup]:
    side = WIDTH - LEFT - RIGHT
    rows = len(chart.values) or 1
    yield Markup('<rect x="{}" y="{}" width="{}" height="{}" class="field"/>').format(LEFT, TOP, side, side)
    # The values are the mask of a rectangle in the page's colour: a map takes 3 kB, and is dark where the page is
    yield Markup(
        '<mask id="{0}-m"><image x="{1}" y="{2}" width="{3}" height="{3}" preserveAspectRatio="none" '
        'class="cells" href="{4}"/></mask><rect x="{1}" y="{2}" width="{3}" height="{3}" class="heat c0" '
        'mask="url(#{0}-m)"/>'
    ).format(name, LEFT, TOP, side, _grey(chart.values))
    yield _text(0, 9, f"{chart.y} ↓", "start", "name")
    yield _text((LEFT + WIDTH - RIGHT) / 2, TOP + side + 33, f"{chart.x} →", style="name")
    every = -(-len(chart.starts) // 10) or 1
    for place in range(0, len(chart.starts), every):
        at = chart.starts[place] / rows * side
        yield _text(LEFT - 6, TOP + at + 8, str(place + 1), "end")
        yield _text(LEFT + at, TOP + side + 15, str(place + 1), "start")


def _grey(values: Sequence[Sequence[float]]) -> str:
    """Values from 0 to 1 as the levels of a PNG, as a data URI; what is not finite is 0."""
    from PIL import Image

    levels = [[round(255 * min(1.0, max(0.0, v))) if math.isfinite(v) else 0 for v in row] for row in values] or [[0]]
    image = Image.frombytes("L", (len(levels[0]), len(levels)), bytes(v for row in levels for v in row))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


_DRAWINGS: dict[type[Chart], Callable[[Any, str], Iterator[Markup]]] = {
    Lines: _lines,
    Dots: _dots,
    Shares: _shares,
    Histogram: _histogram,
    Scatter: _scatter,
    HeatMap: _heat_map,
}


def legend(chart: Chart) -> list[tuple[str, Markup]]:
    """Each name with a piece of its line, or its dot, before it; nothing where one name says no more than the title."""
    names = chart.names
    if len(names) < 2 and names[:1] in ([], [""], [chart.title]):
        return []
    keys = [_key(chart, place, colour) for place, colour in enumerate(colours(names))]
    return [(name, _KEY.format(key)) for name, key in zip(names, keys, strict=True)]


def _key(chart: Chart, place: int, colour: int) -> Markup:
    if isinstance(chart, Lines):
        thin = " thin" if chart.series[place].thin else ""
        return Markup('<path d="M1 5H21" class="line c{}{}"/>').format(colour, thin)
    return Markup('<circle cx="11" cy="5" r="4.5" class="dot c{}"/>').format(colour)


_KEY = Markup('<svg class="key" aria-hidden="true" viewBox="0 0 22 10">{}</svg>')


# Small drawings beside a number


def range_picture(value: float, was: float | None, low: float | None, high: float | None, name: str) -> Markup:
    """A share between 0 and 1 on a track: a ring where it was, a dot where it is, its interval as a bar."""
    if not math.isfinite(value):
        return Markup("")
    across = Scale(0, 1, 6, 194)
    parts = [_rule(6, 10, 194, 10, "track")]
    if was is not None and math.isfinite(was):
        parts.append(_rule(across(was), 10, across(value), 10, "way"))
        parts.append(Markup('<circle cx="{}" cy="10" r="4" class="ring"/>').format(_short(across(was))))
    if ends := interval(low, high):
        parts.append(_rule(across(ends[0]), 10, across(ends[1]), 10, "whisker c0 wide"))
    parts.append(_dot(across(value), 10, 5, 0))
    return _small(200, 20, name, parts)


def sparkline(values: Sequence[float], name: str) -> Markup:
    """A line without axes: how it went."""
    known = _finite(values)
    if len(known) < 2:
        return Markup("")
    across, up = Scale(0, len(known) - 1, 5, 195), Scale(min(known), max(known), 36, 5)
    line = path([Point(x, y) for x, y in enumerate(known)], across, up)
    end = _dot(across(len(known) - 1), up(known[-1]), 4, 0)
    return _small(200, 41, name, [Markup('<path d="{}" class="line c0"/>').format(line), end])


def _small(width: int, height: int, name: str, parts: Sequence[Markup]) -> Markup:
    start = Markup('<svg class="small" role="img" viewBox="0 0 {} {}"><title>{}</title>').format(width, height, name)
    return start + Markup("").join(parts) + Markup("</svg>")


# A file of its own

GAP = 24


def figure_file(heading: str, charts: Sequence[Chart]) -> str:
    """Charts side by side as an SVG file that looks right by itself: in a browser, an editor, a document."""
    cells = [_cell(chart, f"chart-{number}") for number, chart in enumerate(charts, 1)]
    columns = _columns(len(cells))
    inside, top = [_text(GAP, 30, heading, "start", "heading")], 46.0
    for first in range(0, len(cells), columns):
        row = cells[first : first + columns]
        for place, (cell, _) in enumerate(row):
            x = GAP + place * (WIDTH + GAP)
            inside.append(Markup('<g transform="translate({} {})">{}</g>').format(x, _short(top), cell))
        top += max(tall for _, tall in row) + GAP
    start = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="name" viewBox="0 0 {0} {1}" width="{0}" '
        'height="{1}"><title id="name">{2}</title><style>{3}</style><rect width="100%" height="100%" class="paper"/>'
    ).format(GAP + columns * (WIDTH + GAP), _short(top), heading, Markup(_file_style()))
    return f"{start}{Markup('').join(inside)}</svg>\n"


def _columns(count: int) -> int:
    return 2 if count in (2, 4) else min(count, 3)


def _cell(chart: Chart, name: str) -> tuple[Markup, float]:
    """Title, legend, drawing and caption below each other, and how tall they are."""
    parts = [_text(0, 14, chart.title, "start", "title")]
    x, y = 0.0, 34.0
    names = chart.names if legend(chart) else []
    for place, (label, colour) in enumerate(zip(names, colours(names), strict=True)):
        width = 32 + 6.4 * len(label)  # as wide as letters are on average; a name is never cut
        if x and x + width > WIDTH:
            x, y = 0.0, y + 17
        parts.append(
            Markup('<g transform="translate({} {})">{}</g>').format(
                _short(x), _short(y - 9), _key(chart, place, colour)
            )
        )
        parts.append(_text(x + 27, y, label, "start"))
        x += width + 8
    y += 10 if x else -12
    tall = height(chart)
    drawing = _element(chart, name, Markup('y="{}" width="{}" height="{}"').format(_short(y), WIDTH, _short(tall)))
    parts.append(drawing)
    y += tall + 14
    for line in textwrap.wrap(chart.caption, 58):
        parts.append(_text(0, y, line, "start"))
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

    def written(side: int) -> str:
        colour = {pair[0]: pair[side] for pair in pairs}
        return re.sub(r"var\(--([\w-]+)\)", lambda found: colour[found[1]], chart_css())

    return f"{written(1)}@media (prefers-color-scheme: dark) {{ {written(2)} }}"
