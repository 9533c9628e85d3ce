"""What a figure shows, as data: values with their intervals, labels with units, a table, and a description in words.

Nothing here is drawn (`draw.py`). Values that are not finite stay in the data and in its table; a drawing leaves them
out, and `caption` says how many.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from ft.figures.numbers import format_number, is_finite


class Point(NamedTuple):
    """A place on a line; `low` and `high` are the ends of its interval."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None

    @property
    def is_finite(self) -> bool:
        return is_finite(self.x) and is_finite(self.y)


class Chart(ABC):
    """One drawing with axes. `title` is its name, `x` and `y` label its axes with their units, `note` stands below."""

    title: str
    x: str
    y: str
    note: str
    shape: ClassVar[str] = "chart"

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The names of its series, in the order of their colours."""

    @property
    def head(self) -> list[str]:
        """The columns of its table."""
        return [self.x, *self.names]

    @property
    @abstractmethod
    def rows(self) -> list[list[str]]:
        """Its values as a table, formatted."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Its values in words, for readers who cannot see it."""

    @property
    @abstractmethod
    def not_finite(self) -> int:
        """How many of its values are NaN or infinite, so that no drawing has a place for them."""

    @property
    def caption(self) -> str:
        """The note, and what the drawing leaves out."""
        count = self.not_finite
        missing = f"{count:,} value{'s are' if count > 1 else ' is'} not finite and not drawn." if count else ""
        return " ".join(filter(None, (self.note, missing)))


def finite(value: float | None) -> float | None:
    """The value, or None where it is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    """Both ends, or None where one is missing or not finite."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return low, high


def _with_interval(value: float, low: float | None, high: float | None, share: bool) -> str:
    ends = interval(low, high)
    around = "" if ends is None else f" ({format_number(ends[0], share)} to {format_number(ends[1], share)})"
    return format_number(value, share) + around


def _count_not_finite(values: Iterable[float]) -> int:
    return sum(not math.isfinite(value) for value in values)


def _step(x: float) -> str:
    """Steps and turns are whole numbers, whatever type they were read as."""
    return format_number(int(x) if math.isfinite(x) and x == int(x) else x)


@dataclass(frozen=True)
class Series:
    """A line of a chart; a `thin` one stands behind, as training rows behind held-out ones."""

    name: str
    points: tuple[Point, ...]
    thin: bool = False

    @property
    def finite_points(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.is_finite)


@dataclass(frozen=True)
class Lines(Chart):
    """Values by something that grows: steps, turns, numbers of answers. `level` is a line to compare with.

    places  names of 0, 1, … on the axis, where they are no numbers
    best    the point that a ring marks
    epochs  how many go by in one of `x`, for a second axis; 0: none
    """

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    share: bool = False
    level: float | None = None
    diagonal: bool = False
    note: str = ""
    places: tuple[str, ...] = ()
    best: Point | None = None
    epochs: float = 0.0

    @property
    def names(self) -> list[str]:
        return [series.name for series in self.series]

    @property
    def head(self) -> list[str]:
        return [self.x, *["epoch"] * bool(self.epochs), *self.names]

    @property
    def rows(self) -> list[list[str]]:
        # NaN is unequal to itself, so it would be a row of its own in each series: such points have no row
        places = sorted({point.x for series in self.series for point in series.points if math.isfinite(point.x)})
        by_place = [{point.x: point for point in series.points} for series in self.series]
        return [[*self._places(x), *(self._cell(points.get(x)) for points in by_place)] for x in places]

    def _places(self, x: float) -> list[str]:
        return [self._place(x), *([f"{x * self.epochs:.2f}"] if self.epochs else [])]

    def _place(self, x: float) -> str:
        return self.places[int(x)] if self.places else _step(x)

    def _cell(self, point: Point | None) -> str:
        return "·" if point is None else _with_interval(point.y, point.low, point.high, self.share)

    @property
    def description(self) -> str:
        return " ".join(self._describe(series) for series in self.series if series.finite_points)

    def _describe(self, series: Series) -> str:
        points = series.finite_points
        first, *_, last = (*points, points[-1])
        name = series.name or self.title
        if len(points) == 1:
            return f"{name}: {format_number(first.y, self.share)} at {self.x} {self._place(first.x)}."
        values = [point.y for point in points]
        ends = [f"{format_number(p.y, self.share)} at {self.x} {self._place(p.x)}" for p in (first, last)]
        return (
            f"{name}: from {ends[0]} to {ends[1]}, "
            f"between {format_number(min(values), self.share)} and {format_number(max(values), self.share)}."
        )

    @property
    def not_finite(self) -> int:
        return sum(not point.is_finite for series in self.series for point in series.points)


class RowChart(Chart):
    """A drawing with a row each label, and no axis up."""

    y = ""

    @property
    @abstractmethod
    def row_names(self) -> list[str]: ...

    @property
    def head(self) -> list[str]:
        return ["", *self.names]

    @property
    def description(self) -> str:
        cells = [zip(self.names, row[1:], strict=True) for row in self.rows]
        return " ".join(
            f"{label}: {', '.join(f'{name} {value}' for name, value in row)}."
            for label, row in zip(self.row_names, cells, strict=True)
        )


@dataclass(frozen=True)
class Dot:
    """A value in a row of dots, with its interval; `count` is how many it is the mean of."""

    series: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Dots(RowChart):
    """Values side by side: a row each, a dot a series (before, after), whiskers for intervals."""

    title: str
    x: str
    rows_of_dots: tuple[tuple[str, tuple[Dot, ...]], ...]
    share: bool = False
    level: float | None = None
    note: str = ""

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(dot.series for _, dots in self.rows_of_dots for dot in dots))

    @property
    def row_names(self) -> list[str]:
        return [label for label, _ in self.rows_of_dots]

    @property
    def rows(self) -> list[list[str]]:
        table = []
        for label, dots in self.rows_of_dots:
            by_name = {dot.series: self._cell(dot) for dot in dots}
            table.append([label, *(by_name.get(name, "·") for name in self.names)])
        return table

    def _cell(self, dot: Dot) -> str:
        of = "" if dot.count is None else f" of {dot.count:,}"
        return _with_interval(dot.value, dot.low, dot.high, self.share) + of

    @property
    def not_finite(self) -> int:
        return _count_not_finite(dot.value for _, dots in self.rows_of_dots for dot in dots)


@dataclass(frozen=True)
class Histogram(Chart):
    """Counts between edges, each series as shares of its own number; `marks` are values to compare with."""

    title: str
    x: str
    edges: tuple[float, ...]
    counts: tuple[tuple[str, tuple[int, ...]], ...]
    marks: tuple[float, ...] = ()
    note: str = ""
    y: str = field(default="share", init=False)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.counts]

    @property
    def rows(self) -> list[list[str]]:
        bins = zip(self.edges, self.edges[1:], strict=False)
        return [
            [f"{format_number(low)} to {format_number(high)}", *(f"{counts[place]:,}" for _, counts in self.counts)]
            for place, (low, high) in enumerate(bins)
        ]

    @property
    def description(self) -> str:
        return " ".join(self._describe(name, counts) for name, counts in self.counts if sum(counts))

    def _describe(self, name: str, counts: Sequence[int]) -> str:
        most = max(range(len(counts)), key=lambda place: counts[place])
        low, high = format_number(self.edges[most]), format_number(self.edges[most + 1])
        return f"{name}: {sum(counts):,}, most between {low} and {high}."

    @property
    def not_finite(self) -> int:
        return _count_not_finite(self.edges)


BINS = 30


def histogram(
    title: str,
    x: str,
    values: Mapping[str, Sequence[float]],
    bins: int = BINS,
    marks: tuple[float, ...] = (),
    note: str = "",
) -> Histogram:
    """Several lists of numbers counted in the same bins, which run from the least to the greatest finite value."""
    finite_columns = {name: [v for v in column if math.isfinite(v)] for name, column in values.items()}
    pooled = [v for column in finite_columns.values() for v in column]
    low, high = (min(pooled), max(pooled)) if pooled else (0.0, 1.0)
    if high == low:
        low, high, bins = low - 0.5, high + 0.5, 1
    edges = tuple(low + (high - low) * place / bins for place in range(bins + 1))
    counts = []
    for name, column in finite_columns.items():
        by_bin = [0] * bins
        for value in column:
            by_bin[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
        counts.append((name, tuple(by_bin)))
    missing = sum(map(len, values.values())) - len(pooled)
    left_out = f"{missing:,} values that are not finite are not counted." if missing else ""
    return Histogram(title, x, edges, tuple(counts), marks, " ".join(filter(None, (note, left_out))))


@dataclass(frozen=True)
class Scatter(Chart):
    """A dot a pair of values, by group; lines at 0 where `zero`."""

    title: str
    x: str
    y: str
    groups: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    zero: bool = False
    note: str = ""

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.groups]

    @property
    def head(self) -> list[str]:
        return ["", self.x, self.y]

    @property
    def rows(self) -> list[list[str]]:
        return [[name, format_number(x), format_number(y)] for name, dots in self.groups for x, y in dots]

    @property
    def description(self) -> str:
        return " ".join(self._describe(name, dots) for name, dots in self.groups if dots)

    def _describe(self, name: str, dots: Sequence[tuple[float, float]]) -> str:
        finite_dots = self.finite_dots(dots)
        if not finite_dots:
            return f"{name}: no finite value."
        spans = [
            f"{label} from {format_number(min(column))} to {format_number(max(column))}"
            for label, column in zip((self.x, self.y), zip(*finite_dots, strict=True), strict=True)
        ]
        return f"{name or self.title}: {len(finite_dots):,} dots, {', '.join(spans)}."

    @property
    def not_finite(self) -> int:
        return sum(len(dots) - len(self.finite_dots(dots)) for _, dots in self.groups)

    @staticmethod
    def finite_dots(dots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [dot for dot in dots if all(map(math.isfinite, dot))]


@dataclass(frozen=True)
class Shares(RowChart):
    """Parts of a whole, a bar a row: (label, how many of each name)."""

    title: str
    x: str
    names_of_parts: tuple[str, ...]
    counts: tuple[tuple[str, tuple[float, ...]], ...]
    note: str = ""

    @property
    def names(self) -> list[str]:
        return list(self.names_of_parts)

    @property
    def row_names(self) -> list[str]:
        return [label for label, _ in self.counts]

    @property
    def rows(self) -> list[list[str]]:
        return [[label, *(format_number(count) for count in counts)] for label, counts in self.counts]

    @property
    def not_finite(self) -> int:
        return _count_not_finite(count for _, counts in self.counts for count in counts)


@dataclass(frozen=True)
class HeatMap(Chart):
    """A matrix of values from 0 to 1, a cell each; row r, column c is `values[r][c]`.

    starts   the first row of each labelled block, as the turns of a dialogue; the table has a row and a column a block
    """

    title: str
    x: str
    y: str
    values: tuple[tuple[float, ...], ...]
    starts: tuple[int, ...] = ()
    label: str = "turn"
    note: str = ""

    @property
    def names(self) -> list[str]:
        return []

    @property
    def head(self) -> list[str]:
        return [f"{self.y}, {self.label}", *(str(place) for place in range(1, len(self.starts) + 1))]

    @property
    def rows(self) -> list[list[str]]:
        blocks = [self._greatest(row) for row in range(len(self.starts))]
        return [[str(place), *map(format_number, block)] for place, block in enumerate(blocks, 1)]

    def _greatest(self, row: int) -> list[float | None]:
        """The greatest value of the block's rows in each block's columns; None where there is none."""
        ends = (*self.starts[1:], len(self.values))
        rows = self.values[self.starts[row] : ends[row]]
        cells = [[v for line in rows for v in line[a:b]] for a, b in zip(self.starts, ends, strict=True)]
        return [max(filter(math.isfinite, cell), default=None) for cell in cells]

    @property
    def description(self) -> str:
        finite_cells = [v for row in self.values for v in row if math.isfinite(v)]
        if not finite_cells:
            return "No finite value."
        ends = f"{format_number(min(finite_cells))} to {format_number(max(finite_cells))}"
        return f"{len(self.values)} rows of {self.y}, values from {ends}."

    @property
    def not_finite(self) -> int:
        return _count_not_finite(value for row in self.values for value in row)


def thin_out(values: Sequence[Point], most: int) -> tuple[Point, ...]:
    """At most about `most` of them, evenly, and the last in any case."""
    stride = -(-len(values) // most) or 1
    some = tuple(values[::stride])
    return some if not values or some[-1] == values[-1] else (*some, values[-1])
