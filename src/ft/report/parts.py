"""What a page is made of. A part says what is shown; `templates/parts.html.jinja` has a macro of the name `shape` each.

To add one: a dataclass with a `shape`, and a macro of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from ft.report.numbers import said


class Point(NamedTuple):
    """A place on a line; `low` and `high` are the ends of its interval."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line of a chart; a `thin` one stands behind, as training rows behind held-out ones."""

    name: str
    points: tuple[Point, ...]
    thin: bool = False


@dataclass(frozen=True)
class Lines:
    """Values by something that goes on: steps, turns, answers drawn. `level` is a line to compare with."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    share: bool = False
    level: float | None = None
    diagonal: bool = False
    note: str = ""
    shape: ClassVar[str] = "chart"

    @property
    def head(self) -> list[str]:
        return [self.x, *(s.name for s in self.series)]

    @property
    def rows(self) -> list[list[str]]:
        places = sorted({point.x for series in self.series for point in series.points})
        found = [{point.x: point for point in series.points} for series in self.series]
        return [[said(_whole(x)), *(self._cell(points.get(x)) for points in found)] for x in places]

    def _cell(self, point: Point | None) -> str:
        if point is None:
            return "·"
        around = "" if point.low is None else f" ({said(point.low, self.share)} to {said(point.high, self.share)})"
        return said(point.y, self.share) + around

    @property
    def described(self) -> str:
        """Every line in words, for who cannot see it."""
        return " ".join(self._told(series) for series in self.series if series.points)

    def _told(self, series: Series) -> str:
        first, last = series.points[0], series.points[-1]
        if len(series.points) == 1:
            return f"{series.name}: {said(first.y, self.share)} at {self.x} {said(_whole(first.x))}."
        values = [point.y for point in series.points]
        ends = [f"{said(p.y, self.share)} at {self.x} {said(_whole(p.x))}" for p in (first, last)]
        return (
            f"{series.name}: from {ends[0]} to {ends[1]}, "
            f"between {said(min(values), self.share)} and {said(max(values), self.share)}."
        )


def _whole(x: float) -> float:
    return int(x) if x == int(x) else x


@dataclass(frozen=True)
class Dot:
    """A value of a row of dots, with its interval."""

    series: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None


@dataclass(frozen=True)
class Dots:
    """Values side by side: a row each, a dot a series (before, after), whiskers for intervals."""

    title: str
    x: str
    rows_of_dots: tuple[tuple[str, tuple[Dot, ...]], ...]
    share: bool = False
    level: float | None = None
    note: str = ""
    shape: ClassVar[str] = "chart"

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(dot.series for _, dots in self.rows_of_dots for dot in dots))

    @property
    def head(self) -> list[str]:
        return ["", *self.names]

    @property
    def rows(self) -> list[list[str]]:
        found = []
        for label, dots in self.rows_of_dots:
            by_name = {dot.series: self._cell(dot) for dot in dots}
            found.append([label, *(by_name.get(name, "·") for name in self.names)])
        return found

    def _cell(self, dot: Dot) -> str:
        around = "" if dot.low is None else f" ({said(dot.low, self.share)} to {said(dot.high, self.share)})"
        return said(dot.value, self.share) + around + ("" if dot.count is None else f" of {dot.count:,}")

    @property
    def described(self) -> str:
        lines = [
            f"{row[0]}: {', '.join(f'{n} {v}' for n, v in zip(self.names, row[1:], strict=True))}." for row in self.rows
        ]
        return " ".join(lines)


@dataclass(frozen=True)
class Histogram:
    """Counts between edges, each series as shares of its own number."""

    title: str
    x: str
    edges: tuple[float, ...]
    counts: tuple[tuple[str, tuple[int, ...]], ...]
    note: str = ""
    shape: ClassVar[str] = "chart"

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.counts]

    @property
    def head(self) -> list[str]:
        return [self.x, *self.names]

    @property
    def rows(self) -> list[list[str]]:
        bins = zip(self.edges, self.edges[1:], strict=False)
        return [
            [f"{said(low)} to {said(high)}", *(f"{counts[place]:,}" for _, counts in self.counts)]
            for place, (low, high) in enumerate(bins)
        ]

    @property
    def described(self) -> str:
        return " ".join(self._told(name, counts) for name, counts in self.counts if sum(counts))

    def _told(self, name: str, counts: Sequence[int]) -> str:
        most = max(range(len(counts)), key=lambda place: counts[place])
        return f"{name}: {sum(counts):,}, most between {said(self.edges[most])} and {said(self.edges[most + 1])}."


Chart = Lines | Dots | Histogram


@dataclass(frozen=True)
class Table:
    """Words and numbers; all columns but the first are right-aligned where `numeric`."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    numeric: bool = True
    note: str = ""
    shape: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A PNG of a stage, as a data URI."""

    title: str
    uri: str
    width: int
    height: int
    shape: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Message:
    role: str
    text: str


@dataclass(frozen=True)
class Side:
    """One answer: whose it is, what it says, and how it was judged; `good` None where nobody judged."""

    name: str
    text: str
    judged: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class Answered:
    """A prompt and its answers side by side."""

    prompt: tuple[Message, ...]
    sides: tuple[Side, ...]
    note: str = ""


@dataclass(frozen=True)
class Answers:
    rows: tuple[Answered, ...]
    note: str = ""
    shape: ClassVar[str] = "answers"


@dataclass(frozen=True)
class Dialogue:
    messages: tuple[Message, ...]
    title: str = ""
    shape: ClassVar[str] = "dialogue"


@dataclass(frozen=True)
class Masked:
    """Rows as the trainer gets them: runs of text with the same role, trained or only read."""

    rows: tuple[Any, ...]
    roles: tuple[str, ...]
    shape: ClassVar[str] = "masked"


@dataclass(frozen=True)
class Charts:
    """Several charts side by side."""

    charts: tuple[Chart, ...]
    shape: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Words:
    """Sentences; `warns` when a reader should see them first."""

    lines: tuple[str, ...]
    warns: bool = False
    shape: ClassVar[str] = "words"


Part = Chart | Charts | Table | Picture | Answers | Dialogue | Masked | Words


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; `folded` when a reader opens it on demand."""

    title: str
    parts: tuple[Part, ...] = field(default=())
    folded: bool = False
