"""Axes and the shapes of a drawing: places for values, and the SVG of texts, lines, dots and boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ft.figures.charts import Point
from ft.figures.numbers import is_finite

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 22, 38  # margins of the axes; TOP has room for the label of the y axis
ROW, LABELS, ROWS_TOP = 26, 112, 10
SMALLEST = 1e-300  # a step that is still a float


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


def ticks(low: float, high: float, count: int = 4, smallest_step: float = SMALLEST) -> list[float]:
    """Round values from `low` or below to `high` or above: steps of 1, 2 or 5 times a power of ten, about `count`, none
    below `smallest_step`."""
    span = (high - low) or abs(high) or 1.0
    rough = max(span / count, smallest_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # rounding takes away 0.30000000000000004, and keeps ten digits of the step however small it is
    digits = 10 - min(0, math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, max(last, first + 1) + 1)]


# Shapes


def short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def way_through(places: Sequence[tuple[float, float]], join: str = "l", end: str = "") -> str:
    """Steps from each place to the next, in tenths that never add up to more: half as long as places are. `end` stands
    behind each: 'h0' with the join 'm' makes dots of them."""
    way, before = "", (0, 0)
    for number, place in enumerate(places):
        here = (round(10 * place[0]), round(10 * place[1]))
        x, y = (_tenths(a - b) for a, b in zip(here, before, strict=True))
        command = "M" if number == 0 else join if number == 1 or end else "" if x.startswith("-") else " "
        way += f"{command}{x}{'' if y.startswith('-') else ' '}{y}{end}"
        before = here
    return way


def _tenths(count: int) -> str:
    return f"{count / 10:.1f}".removesuffix(".0").replace("0.", ".", abs(count) < 10)


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> Markup:
    """Words with their middle, start or end at a place: the middle is what `chart.css` says of all."""
    names = " ".join(filter(None, (anchor.removeprefix("middle"), style)))
    attribute = Markup(' class="{}"').format(names) if names else ""
    return Markup('<text x="{}" y="{}"{}>{}</text>').format(short(x), short(y), attribute, words)


def rule(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    places = (short(v) for v in (x1, y1, x2, y2))
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(*places, style)


def rules(ends: Iterable[tuple[float, float, float, float]], style: str) -> Markup:
    """Straight lines in one style as one path: (x1, y1, x2, y2) each."""
    ways = (way_through([(x1, y1), (x2, y2)]) for x1, y1, x2, y2 in ends)
    way = "".join(ways)
    return line(way, style) if way else Markup("")


def line(way: str, style: str) -> Markup:
    return Markup('<path d="{}" class="{}"/>').format(way, style)


def box(x: float, y: float, width: float, height: float, style: str) -> Markup:
    places = (short(v) for v in (x, y, width, height))
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>').format(*places, style)


def circle(x: float, y: float, radius: float, style: str) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="{}" class="{}"/>').format(short(x), short(y), radius, style)


def dots(places: Sequence[tuple[float, float]], style: str) -> Markup:
    """Lines of no length with round ends: nine bytes each, where a circle takes fifty."""
    return line(way_through(places, "m", "h0"), style)


# Scales of what is drawn


def finite_values(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and is_finite(value)]


def value_scale(values: Sequence[float], share: bool = False) -> Scale:
    """Up to round values around the data; shares from 0 to 1."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    marks = ticks(0, 1) if share and low >= 0 and high <= 1 else ticks(low, high)
    return Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP, tuple(marks))


def place_scale(values: Sequence[float]) -> Scale:
    """As far as the data goes, a single value in the middle. Whole numbers (steps, turns) have whole labels."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    return ranged_scale(low, high, 1.0 if all(value == int(value) for value in values) else SMALLEST)


def named_scale(count: int) -> Scale:
    """A place for each of `count` names, and a label at all of them."""
    return Scale(0, max(count - 1, 1), LEFT + 12, WIDTH - RIGHT, tuple(map(float, range(count))))


def ranged_scale(low: float, high: float, smallest_step: float = SMALLEST) -> Scale:
    """Across the drawing, from `low` to `high` and no further."""
    marks = tuple(mark for mark in ticks(low, high, 5, smallest_step) if low <= mark <= high)
    return Scale(low, high, LEFT, WIDTH - RIGHT, marks)


def row_scale(values: Sequence[float], share: bool) -> Scale:
    """Across the rows of a drawing, right of their labels."""
    marks = ticks(0, 1) if share else ticks(min([0.0, *values]), max([0.0, *values]))
    return Scale(marks[0], marks[-1], LABELS, WIDTH - RIGHT - 8, tuple(marks))


def tick(value: float, share: bool = False) -> str:
    return f"{value:.0%}" if share else f"{value:,.6g}" if abs(value) < 1e5 else f"{value:.0e}"


# Axes


@dataclass(frozen=True)
class Axes:
    """Two scales, and what is drawn by them: places `across`, values `up`. `places` are names of 0, 1, … across."""

    across: Scale
    up: Scale
    places: Sequence[str] = ()

    def draw(self, x: str, y: str, share: bool) -> Iterator[Markup]:
        """Grid, marks and labels."""
        if y:
            yield text(0, 9, y, "start", "name")
        yield rules(((LEFT, self.up(value), WIDTH - RIGHT, self.up(value)) for value in self.up.marks), "grid")
        for value in self.up.marks:
            yield text(LEFT - 6, self.up(value) + 4, tick(value, share), "end")
        yield rule(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
        for value in self.across.marks:
            anchor = "end" if self.across(value) > WIDTH - RIGHT - 8 else "middle"
            words = self.places[int(value)] if self.places else tick(value)
            yield text(self.across(value), HEIGHT - BOTTOM + 15, words, anchor)
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x, style="name")

    def draw_epochs(self, per_place: float) -> Iterator[Markup]:
        """A second axis at the top, of epochs, where so many go by in a place; the first label says what it counts."""
        low, high = self.across.low * per_place, self.across.high * per_place
        marks = [mark for mark in ticks(low, high, 4) if max(low, 0) < mark <= high]
        for number, mark in enumerate(marks):
            x = self.across(mark / per_place)
            yield rule(x, TOP - 4, x, TOP, "axis")
            anchor = "end" if x > WIDTH - RIGHT - 8 else "middle"
            yield text(x, TOP - 8, f"epoch {tick(mark)}" if number == 0 else tick(mark), anchor)

    def path(self, points: Iterable[Point]) -> str:
        """'M46 182l152-85': the way through the points."""
        return way_through([(self.across(p.x), self.up(p.y)) for p in points])

    def level(self, value: float) -> Iterator[Markup]:
        """A line across at a value, where the scale reaches it."""
        if self.up.low <= value <= self.up.high:
            yield rule(LEFT, self.up(value), WIDTH - RIGHT, self.up(value), "level")

    def place(self, value: float) -> Iterator[Markup]:
        """A line up at a place, where the scale reaches it."""
        if self.across.low <= value <= self.across.high:
            yield rule(self.across(value), TOP, self.across(value), HEIGHT - BOTTOM, "level")

    def diagonal(self) -> Markup:
        """Where place and value are equal."""
        low, high = max(self.across.low, self.up.low), min(self.across.high, self.up.high)
        return rule(self.across(low), self.up(low), self.across(high), self.up(high), "level")


def row_axes(across: Scale, labels: Sequence[str], x: str, share: bool) -> Iterator[Markup]:
    """The marks of a drawing with a row each label."""
    bottom = ROWS_TOP + ROW * len(labels)
    yield rules(((across(mark), ROWS_TOP, across(mark), bottom) for mark in across.marks), "grid")
    for mark in across.marks:
        yield text(across(mark), bottom + 15, tick(mark, share))
    yield text((LABELS + WIDTH - RIGHT) / 2, bottom + 33, x, style="name")
    for place, label in enumerate(labels):
        shortened = label if len(label) < 17 else label[:15] + "…"  # the table below the drawing has all of it
        yield text(LABELS - 8, ROWS_TOP + ROW * (place + 0.5) + 4, shortened, "end", "row")
