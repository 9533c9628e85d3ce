"""The one drawing of every chart: SVG that is small, named, described, and in the colours of the page around it.

Colours are classes (`chart.css`), so that light, dark and printed pages share one drawing. `svg_file.py` makes a file
of it, `small.py` draws what stands beside a number.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from ft.figures import charts
from ft.figures.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    ROW,
    ROWS_TOP,
    TOP,
    WIDTH,
    Axes,
    box,
    circle,
    dots,
    finite_values,
    line,
    named_scale,
    place_scale,
    ranged_scale,
    row_axes,
    row_scale,
    rule,
    rules,
    short,
    text,
    tick,
    value_scale,
    way_through,
)
from ft.figures.block_stack import BlockStack, draw_stack, stack_height
from ft.figures.charts import Chart, Point, interval

COLOURS = 6
MOST_DOTTED = 40  # a line of fewer points has a dot at each
FIXED = {"after": 0, "before": 5, "ablation": 1, "training rows": 5, "held out": 0, "ties": 5}
"""The same thing has the same colour in every chart; other names take the colours in order."""


def colours(names: Sequence[str]) -> list[int]:
    """A colour each, by name where the name is known; what was held out has that of its training rows."""
    kinds = [name.removesuffix(", held out").removesuffix(", training rows") for name in names]
    fixed = {FIXED[kind] for kind in kinds if kind in FIXED}
    free = [colour for colour in range(COLOURS) if colour not in fixed] or [*range(COLOURS)]
    new = [kind for kind in dict.fromkeys(kinds) if kind not in FIXED]
    by_kind = {kind: free[place % len(free)] for place, kind in enumerate(new)} | FIXED
    return [by_kind[kind] for kind in kinds]


def draw(chart: Chart, name: str) -> Markup:
    """The chart as an SVG element; `name` makes the ids of its title and description its own."""
    return element(chart, name, Markup('class="chart" role="img"{}').format(_hover(chart)))


def _hover(chart: Chart) -> Markup:
    """What a page's script finds the row of the chart's table by, from where the pointer is."""
    if isinstance(chart, charts.Lines) and not chart.places and any(series.finite_points for series in chart.series):
        across = axes_of(chart).across
        return Markup(' data-x="{} {}"').format(across.low, across.high)
    if isinstance(chart, charts.RowChart):
        return Markup(' data-row="{} {}"').format(ROWS_TOP, ROW)
    return Markup(' data-bins=""' if isinstance(chart, charts.Histogram) else "")


def element(chart: Chart, name: str, attributes: Markup) -> Markup:
    head = Markup(
        '<svg {0} aria-labelledby="{1}-t" aria-describedby="{1}-d" viewBox="0 0 {2} {3}">'
        '<title id="{1}-t">{4}</title><desc id="{1}-d">{5}</desc>'
    ).format(attributes, name, WIDTH, short(height(chart)), chart.title, chart.description)
    return head + Markup("").join(_DRAWINGS[type(chart)](chart, name)) + Markup("</svg>")


def height(chart: Chart) -> float:
    """In the units of the drawing, which is WIDTH wide."""
    if isinstance(chart, BlockStack):
        return stack_height(chart)
    if isinstance(chart, charts.RowChart):
        return ROWS_TOP + ROW * len(chart.row_names) + BOTTOM
    if isinstance(chart, charts.Histogram) and len(chart.counts) > MOST_OVERLAID:
        return STRIP * len(chart.counts) + BOTTOM
    return WIDTH - LEFT - RIGHT + TOP + BOTTOM if isinstance(chart, charts.HeatMap) else HEIGHT


# Lines


def axes_of(chart: charts.Lines) -> Axes:
    """The axes of a line chart; both reach over the finite points."""
    points = [point for series in chart.series for point in series.finite_points]
    values = finite_values(y for p in points for y in (p.y, *(interval(p.low, p.high) or ())))
    across = named_scale(len(chart.places)) if chart.places else place_scale([point.x for point in points])
    return Axes(across, value_scale(values, chart.share), chart.places)


def _lines(chart: charts.Lines, name: str) -> Iterator[Markup]:
    axes = axes_of(chart)
    yield from axes.draw(chart.x, chart.y, chart.share)
    if chart.level is not None:
        yield from axes.level(chart.level)
    if chart.diagonal:
        yield axes.diagonal()
    if chart.epochs:
        yield from axes.draw_epochs(chart.epochs)
    coloured = list(zip(colours(chart.names), chart.series, strict=True))
    for colour, series in coloured:
        yield from _band(series, axes, colour)
    for colour, series in sorted(coloured, key=lambda pair: not pair[1].thin):
        yield from _line(series, axes, colour)
    if chart.best:
        yield circle(axes.across(chart.best.x), axes.up(chart.best.y), 5, "best")


def finite_runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The points between gaps: a line has one where a value is none."""
    run: list[Point] = []
    for point in points:
        if point.is_finite:
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _line(series: charts.Series, axes: Axes, colour: int) -> Iterator[Markup]:
    runs = list(finite_runs(series.points))
    if way := "".join(axes.path(run) for run in runs if len(run) > 1):
        yield line(way, f"line c{colour}{' thin' * series.thin}")
    dotted = len(series.points) < MOST_DOTTED and not series.thin
    if points := [point for run in runs if dotted or len(run) == 1 for point in run]:
        yield dots([(axes.across(point.x), axes.up(point.y)) for point in points], f"dots c{colour}")


def _band(series: charts.Series, axes: Axes, colour: int) -> Iterator[Markup]:
    """The intervals as a band; a single point has a whisker."""
    ends = [(p.x, *pair) for p in series.finite_points if (pair := interval(p.low, p.high))]
    if len(ends) > 1:
        outline = [Point(x, high) for x, _, high in ends] + [Point(x, low) for x, low, _ in reversed(ends)]
        yield line(axes.path(outline) + "Z", f"band c{colour}")
    for x, low, high in ends if len(ends) == 1 else ():
        yield rule(axes.across(x), axes.up(low), axes.across(x), axes.up(high), f"whisker c{colour}")


# Rows: dots and shares


def _dots(chart: charts.Dots, _: str) -> Iterator[Markup]:
    all_dots = [dot for _, row in chart.rows_of_dots for dot in row]
    values = finite_values(v for d in all_dots for v in (d.value, *(interval(d.low, d.high) or ())))
    across = row_scale(values, chart.share and all(0 <= v <= 1 for v in values))
    yield from row_axes(across, chart.row_names, chart.x, chart.share)
    if chart.level is not None:
        x = across(chart.level)
        yield rule(x, ROWS_TOP, x, ROWS_TOP + ROW * len(chart.row_names), "level")
    for colour, name in zip(colours(chart.names), chart.names, strict=True):
        placed = [(dot, y) for dot, y in _places_of_dots(chart) if dot.series == name]
        ends = [(pair, y) for dot, y in placed if (pair := interval(dot.low, dot.high))]
        yield rules(((across(low), y, across(high), y) for (low, high), y in ends), f"whisker c{colour}")
        if points := [(across(dot.value), y) for dot, y in placed if math.isfinite(dot.value)]:
            yield dots(points, f"dots large c{colour}")


def _places_of_dots(chart: charts.Dots) -> Iterator[tuple[charts.Dot, float]]:
    """Each dot and its height: those of a row lie close below each other."""
    for place, (_, row) in enumerate(chart.rows_of_dots):
        for number, dot in enumerate(row):
            yield dot, ROWS_TOP + ROW * (place + 0.5) + (number - (len(row) - 1) / 2) * min(7, 18 / len(row))


def _shares(chart: charts.Shares, name: str) -> Iterator[Markup]:
    across = row_scale([], share=True)
    yield from row_axes(across, chart.row_names, chart.x, share=True)
    for place, (_, counts) in enumerate(chart.counts):
        parts = [count if math.isfinite(count) else 0.0 for count in counts]
        total, start = sum(parts) or 1.0, 0.0
        for colour, count in zip(colours(chart.names), parts, strict=True):
            x, end = across(start), across(start + count / total)
            yield box(x, ROWS_TOP + ROW * place + 5, end - x, ROW - 10, f"bar c{colour}")
            start += count / total


# Histograms, scatter, heat maps


def _histogram(chart: charts.Histogram, name: str) -> Iterator[Markup]:
    edges = finite_values(chart.edges)
    if len(edges) < len(chart.edges) or len(edges) < 2:
        return  # counts without a place; `caption` says so
    columns = [[count / (sum(counts) or 1) for count in counts] for _, counts in chart.counts]
    if len(columns) > MOST_OVERLAID:
        yield from _strips(chart, edges, columns)
        return
    axes = Axes(ranged_scale(edges[0], edges[-1]), value_scale([0.0, *(v for column in columns for v in column)]))
    yield from axes.draw(chart.x, chart.y, share=True)
    for colour, column in zip(colours(chart.names), columns, strict=True):
        points = [Point(edges[0], 0.0)]
        for low, high, value in zip(edges, edges[1:], column, strict=False):
            points += [Point(low, value), Point(high, value)]
        yield line(axes.path([*points, Point(edges[-1], 0.0)]), f"steps c{colour}")
    for mark in chart.marks:
        yield from axes.place(mark)


MOST_OVERLAID, STRIP = 2, 46


def _strips(chart: charts.Histogram, edges: Sequence[float], columns: Sequence[Sequence[float]]) -> Iterator[Markup]:
    """Small multiples: each series in a strip of its own below the others, at one scale."""
    across, bottom = ranged_scale(edges[0], edges[-1]), STRIP * len(columns)
    most = max((value for column in columns for value in column), default=0.0) or 1.0
    yield rules(((across(mark), 0, across(mark), bottom) for mark in across.marks), "grid")
    for number, (name, colour, column) in enumerate(zip(chart.names, colours(chart.names), columns, strict=True)):
        foot = STRIP * (number + 1)
        heights = [foot - value / most * (STRIP - 14) for value in column]
        corners = [(across(x), y) for low, high, y in zip(edges, edges[1:], heights, strict=False) for x in (low, high)]
        yield line(way_through([(LEFT, foot), *corners, (WIDTH - RIGHT, foot)]), f"steps c{colour}")
        yield text(LEFT, foot - STRIP + 11, name, "start", "row")
    for mark in across.marks:
        yield text(across(mark), bottom + 15, tick(mark))
    yield text((LEFT + WIDTH - RIGHT) / 2, bottom + 33, chart.x, style="name")
    for mark in chart.marks:
        if across.low <= mark <= across.high:
            yield rule(across(mark), 0, across(mark), bottom, "level")


def _scatter(chart: charts.Scatter, name: str) -> Iterator[Markup]:
    groups = [chart.finite_dots(pairs) for _, pairs in chart.groups]
    axes = Axes(
        place_scale([x for pairs in groups for x, _ in pairs]), value_scale([y for pairs in groups for _, y in pairs])
    )
    yield from axes.draw(chart.x, chart.y, share=False)
    if chart.zero:
        yield from (*axes.level(0), *axes.place(0))
    for colour, pairs in zip(colours(chart.names), groups, strict=True):
        yield dots([(axes.across(x), axes.up(y)) for x, y in pairs], f"cloud c{colour}")


def _heat_map(chart: charts.HeatMap, name: str) -> Iterator[Markup]:
    side = WIDTH - LEFT - RIGHT
    rows = len(chart.values) or 1
    yield box(LEFT, TOP, side, side, "field")
    # The values are the mask of a rectangle in the page's colour: a map takes 3 kB, and is dark where the page is
    yield Markup(
        '<mask id="{0}-m"><image x="{1}" y="{2}" width="{3}" height="{3}" preserveAspectRatio="none" '
        'class="cells" href="{4}"/></mask><rect x="{1}" y="{2}" width="{3}" height="{3}" class="heat c0" '
        'mask="url(#{0}-m)"/>'
    ).format(name, LEFT, TOP, side, _grey(chart.values))
    yield text(0, 9, f"{chart.y} ↓", "start", "name")
    yield text((LEFT + WIDTH - RIGHT) / 2, TOP + side + 33, f"{chart.x} →", style="name")
    stride = -(-len(chart.starts) // 10) or 1
    for place in range(0, len(chart.starts), stride):
        at = chart.starts[place] / rows * side
        yield text(LEFT - 6, TOP + at + 8, str(place + 1), "end")
        yield text(LEFT + at, TOP + side + 15, str(place + 1), "start")


def _grey(values: Sequence[Sequence[float]]) -> str:
    """Values from 0 to 1 as the levels of a PNG, as a data URI; what is not finite is 0."""
    from PIL import Image

    levels = [[round(255 * min(1.0, max(0.0, v))) if math.isfinite(v) else 0 for v in row] for row in values] or [[0]]
    image = Image.frombytes("L", (len(levels[0]), len(levels)), bytes(v for row in levels for v in row))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


_DRAWINGS: dict[type[Chart], Callable[[Any, str], Iterator[Markup]]] = {
    charts.Lines: _lines,
    charts.Dots: _dots,
    charts.Shares: _shares,
    charts.Histogram: _histogram,
    charts.Scatter: _scatter,
    charts.HeatMap: _heat_map,
    BlockStack: draw_stack,
}


def legend(chart: Chart) -> list[tuple[str, Markup]]:
    """Each name with a piece of its line, or its dot, as a picture to stand before it."""
    return [(name, KEY.format(shape)) for name, shape in legend_shapes(chart)]


def legend_shapes(chart: Chart) -> list[tuple[str, Markup]]:
    """The same without a picture of their own; nothing where one name says no more than the title."""
    names = chart.names
    if len(names) < 2 and names[:1] in ([], [""], [chart.title]):
        return []
    if isinstance(chart, charts.Lines):
        thin = [" thin" * series.thin for series in chart.series]
        shapes = [line("M1 5H21", f"line c{c}{style}") for c, style in zip(colours(names), thin, strict=True)]
    else:
        shapes = [circle(11, 5, 4.5, f"dot c{colour}") for colour in colours(names)]
    return list(zip(names, shapes, strict=True))


KEY = Markup('<svg class="key" aria-hidden="true" viewBox="0 0 22 10">{}</svg>')
