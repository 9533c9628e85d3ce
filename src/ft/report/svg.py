"""Charts as inline SVG, drawn by hand: small, named, described, and in the colours of the page around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ft.report.parts import Chart, Dots, Histogram, Lines, Point, Series

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 38
ROW, LABELS = 26, 112
COLOURS = 6
LEAST_POINTS_WITHOUT_DOTS = 40
KNOWN = {"after": 0, "before": 5, "ablation": 1, "training rows": 5, "held out": 0}
"""The same thing has the same colour in every chart; other names take the colours in order."""


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from `low` or below to `high` or above: steps of 1, 2 or 5 times a power of ten, about `count`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, max(last, first + 1) + 1)]


def colours(names: Sequence[str]) -> list[int]:
    """A colour each, by name where the name is known; what was held out has that of its training rows."""
    kinds = [name.removesuffix(", held out").removesuffix(", training rows") for name in names]
    taken = {KNOWN[kind] for kind in kinds if kind in KNOWN}
    left = [colour for colour in range(COLOURS) if colour not in taken] or [*range(COLOURS)]
    new = [kind for kind in dict.fromkeys(kinds) if kind not in KNOWN]
    given = {kind: left[place % len(left)] for place, kind in enumerate(new)}
    return [{**given, **KNOWN}[kind] for kind in kinds]


def drawn(chart: Chart, name: str) -> Markup:
    """The chart as an SVG element; `name` makes the ids of its title and description its own."""
    if isinstance(chart, Lines):
        return _framed(chart, name, HEIGHT, _lines(chart))
    if isinstance(chart, Histogram):
        return _framed(chart, name, HEIGHT, _histogram(chart))
    height = TOP + ROW * len(chart.rows_of_dots) + BOTTOM
    return _framed(chart, name, height, _dots(chart))


def _framed(chart: Chart, name: str, height: float, inside: Iterator[Markup]) -> Markup:
    start = Markup(
        '<svg class="chart" role="img" aria-labelledby="{0}-t" aria-describedby="{0}-d" viewBox="0 0 {1} {2}">'
        '<title id="{0}-t">{3}</title><desc id="{0}-d">{4}</desc>'
    ).format(name, WIDTH, _short(height), chart.title, chart.described)
    return start + Markup("").join(inside) + Markup("</svg>")


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>').format(
        _short(x), _short(y), anchor, Markup(' class="{}"').format(style) if style else "", text
    )


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    places = (_short(v) for v in (x1, y1, x2, y2))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*places, style)


# Lines


def _lines(chart: Lines) -> Iterator[Markup]:
    across, up = scales(chart)
    yield from _grid(up, chart.share)
    yield from _x_axis(across, chart.x)
    if chart.level is not None and up.low <= chart.level <= up.high:
        yield _rule(LEFT, up(chart.level), WIDTH - RIGHT, up(chart.level), "level")
    if chart.diagonal:
        yield _rule(across(across.low), up(across.low), across(across.high), up(across.high), "level")
    coloured = list(zip(colours([series.name for series in chart.series]), chart.series, strict=True))
    for colour, series in coloured:
        yield from _band(series, across, up, colour)
    for colour, series in sorted(coloured, key=lambda pair: not pair[1].thin):
        yield from _line(series, across, up, colour)


def scales(chart: Lines) -> tuple[Scale, Scale]:
    """The axes: across as far as the data goes, up to round values around it; shares from 0 to 1."""
    points = [point for series in chart.series for point in series.points]
    xs = [point.x for point in points] or [0.0, 1.0]
    ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None] or [0.0, 1.0]
    marks = ticks(0, 1) if chart.share and min(ys) >= 0 and max(ys) <= 1 else ticks(min(ys), max(ys))
    low, high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    return Scale(low, high, LEFT, WIDTH - RIGHT), Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP)


def _grid(up: Scale, share: bool) -> Iterator[Markup]:
    for value in ticks(up.low, up.high):
        if up.low <= value <= up.high:
            yield _rule(LEFT, up(value), WIDTH - RIGHT, up(value), "grid")
            yield _text(LEFT - 6, up(value) + 4, _tick(value, share), "end")


def _tick(value: float, share: bool) -> str:
    return f"{value:.0%}" if share else f"{value:,.6g}" if abs(value) < 1e5 else f"{value:.0e}"


def _x_axis(across: Scale, label: str) -> Iterator[Markup]:
    yield _rule(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
    for value in ticks(across.low, across.high, 5):
        if across.low <= value <= across.high:
            anchor = "end" if across(value) > WIDTH - RIGHT - 8 else "middle"
            yield _text(across(value), HEIGHT - BOTTOM + 15, _tick(value, False), anchor)
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, label, style="name")


def path(points: Sequence[Point], across: Scale, up: Scale) -> str:
    """'M46 182L198 97': the line through the points."""
    return "M" + "L".join(f"{_short(across(p.x))} {_short(up(p.y))}" for p in points)


def _line(series: Series, across: Scale, up: Scale, colour: int) -> Iterator[Markup]:
    points = [point for point in series.points if math.isfinite(point.y)]
    if not points:
        return
    style = f"line c{colour}" + (" thin" if series.thin else "")
    if len(points) > 1:
        yield Markup('<path d="{}" class="{}"/>').format(path(points, across, up), style)
    if len(points) < LEAST_POINTS_WITHOUT_DOTS and not series.thin:
        for point in points:
            yield Markup('<circle cx="{}" cy="{}" r="2.2" class="dot c{}"/>').format(
                _short(across(point.x)), _short(up(point.y)), colour
            )


def _band(series: Series, across: Scale, up: Scale, colour: int) -> Iterator[Markup]:
    """The intervals as a band; single points have whiskers, which `Dots` draws."""
    sure = [(p.x, p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
    if len(sure) > 1:
        there = [Point(x, high) for x, _, high in sure]
        back = [Point(x, low) for x, low, _ in reversed(sure)]
        yield Markup('<path d="{}Z" class="band c{}"/>').format(path([*there, *back], across, up), colour)


# Dots


def _dots(chart: Dots) -> Iterator[Markup]:
    values = [v for _, dots in chart.rows_of_dots for d in dots for v in (d.value, d.low, d.high) if v is not None]
    marks = ticks(0, 1) if chart.share else ticks(min([0.0, *values]), max([0.0, *values]))
    across, bottom = Scale(marks[0], marks[-1], LABELS, WIDTH - RIGHT - 8), TOP + ROW * len(chart.rows_of_dots)
    for mark in marks:
        yield _rule(across(mark), TOP, across(mark), bottom, "grid")
        yield _text(across(mark), bottom + 15, _tick(mark, chart.share))
    if chart.level is not None:
        yield _rule(across(chart.level), TOP, across(chart.level), bottom, "level")
    yield _text((LABELS + WIDTH - RIGHT) / 2, bottom + 33, chart.x, style="name")
    by_name = dict(zip(chart.names, colours(chart.names), strict=True))
    for place, (label, dots) in enumerate(chart.rows_of_dots):
        middle = TOP + ROW * (place + 0.5)
        yield _text(LABELS - 8, middle + 4, label if len(label) < 17 else label[:15] + "…", "end", "row")
        for number, dot in enumerate(dots):
            colour = by_name[dot.series]
            y = middle + (number - (len(dots) - 1) / 2) * min(7, 18 / len(dots))
            if dot.low is not None and dot.high is not None:
                yield _rule(across(dot.low), y, across(dot.high), y, f"whisker c{colour}")
            yield Markup('<circle cx="{}" cy="{}" r="3.6" class="dot c{}"/>').format(
                _short(across(dot.value)), _short(y), colour
            )


# Histograms


def _histogram(chart: Histogram) -> Iterator[Markup]:
    shares = [(name, [c / (sum(counts) or 1) for c in counts]) for name, counts in chart.counts]
    across = Scale(chart.edges[0], chart.edges[-1], LEFT, WIDTH - RIGHT)
    marks = ticks(0, max((s for _, found in shares for s in found), default=1.0) or 1.0)
    up = Scale(0, marks[-1], HEIGHT - BOTTOM, TOP)
    yield from _grid(up, share=True)
    yield from _x_axis(across, chart.x)
    for colour, (_, found) in zip(colours(chart.names), shares, strict=True):
        points = [Point(chart.edges[0], 0.0)]
        for left, right, value in zip(chart.edges, chart.edges[1:], found, strict=False):
            points += [Point(left, value), Point(right, value)]
        points.append(Point(chart.edges[-1], 0.0))
        yield Markup('<path d="{}" class="steps c{}"/>').format(path(points, across, up), colour)


# Small pictures beside a number


def range_picture(value: float, was: float | None, low: float | None, high: float | None, name: str) -> Markup:
    """A share between 0 and 1 on a track: a ring where it was, a dot where it is, its interval as a bar."""
    across = Scale(0, 1, 6, 194)
    parts = [_rule(6, 10, 194, 10, "track")]
    if was is not None:
        parts.append(_rule(across(was), 10, across(value), 10, "way"))
        parts.append(Markup('<circle cx="{}" cy="10" r="4" class="ring"/>').format(_short(across(was))))
    if low is not None and high is not None:
        parts.append(_rule(across(low), 10, across(high), 10, "whisker c0 wide"))
    parts.append(Markup('<circle cx="{}" cy="10" r="5" class="dot c0"/>').format(_short(across(value))))
    return _small(200, 20, name, parts)


def sparkline(values: Sequence[float], name: str) -> Markup:
    """A line without axes: how it went."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return Markup("")
    across, up = Scale(0, len(finite) - 1, 5, 195), Scale(min(finite), max(finite), 36, 5)
    line = path([Point(x, y) for x, y in enumerate(finite)], across, up)
    end = Markup('<circle cx="{}" cy="{}" r="4" class="dot c0"/>').format(
        _short(across(len(finite) - 1)), _short(up(finite[-1]))
    )
    return _small(200, 41, name, [Markup('<path d="{}" class="line c0"/>').format(line), end])


def _small(width: int, height: int, name: str, parts: Sequence[Markup]) -> Markup:
    start = Markup('<svg class="small" role="img" viewBox="0 0 {} {}"><title>{}</title>').format(width, height, name)
    return start + Markup("").join(parts) + Markup("</svg>")


def legend(chart: Chart) -> list[tuple[str, Markup]]:
    """Each name with a piece of its line, or its dot, before it; nothing where one name says no more than the title."""
    lines = isinstance(chart, Lines)
    names = [series.name for series in chart.series] if isinstance(chart, Lines) else chart.names
    if len(names) < 2 and names[:1] in ([], [""], [chart.title]):
        return []
    found = []
    for place, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        thin = " thin" if isinstance(chart, Lines) and chart.series[place].thin else ""
        inside = Markup(
            '<path d="M1 5H21" class="line c{}{}"/>' if lines else '<circle cx="11" cy="5" r="4.5" class="dot c{}"/>'
        )
        found.append((name, _KEY.format(inside.format(colour, thin))))
    return found


_KEY = Markup('<svg class="key" aria-hidden="true" viewBox="0 0 22 10">{}</svg>')
