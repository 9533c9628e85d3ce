"""A model as papers draw it: embeddings below, a block that stands so many times, the head above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup

from ft.figures.axes import box, circle, line, rule, short, text
from ft.figures.charts import Chart

MIDDLE, BOX_WIDTH, BESIDE = 130.0, 172.0, 234.0
"""Across: the way of the tokens, the boxes on it, and what is said of each."""
BOX_HEIGHT, LINE, WIRE, PLUS = 26.0, 14.0, 13.0, 7.5
RESIDUAL = 32.0  # where the way around a branch goes up
FRAME = 22.0


@dataclass(frozen=True)
class Box:
    """A module; `details` stand beside it, a line each; `colour` is one of the charts'."""

    label: str
    details: tuple[str, ...] = ()
    colour: int = 5


@dataclass(frozen=True)
class Branch:
    """What is added to the residual stream: a column of boxes from below, or two that read the same. `of_sum` is a
    norm of the sum."""

    columns: tuple[tuple[Box, ...], ...]
    of_sum: Box | None = None


@dataclass(frozen=True)
class BlockStack(Chart):
    """Boxes from below: `before`, `branches` that stand `count` times, `after`. `start` and `end` are words below and
    above; `table` has a row a module."""

    title: str
    start: str
    before: tuple[Box, ...]
    count: int
    branches: tuple[Branch, ...]
    after: tuple[Box, ...]
    end: str
    table_head: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    x: str = ""
    y: str = ""
    note: str = ""

    @property
    def names(self) -> list[str]:
        return []

    @property
    def head(self) -> list[str]:
        return [*self.table_head]

    @property
    def rows(self) -> list[list[str]]:
        return [[*row] for row in self.table]

    @property
    def description(self) -> str:
        branches = [", ".join(_words(one) for column in branch.columns for one in column) for branch in self.branches]
        block = f"{self.count:,} blocks of " + "; then ".join(branches)
        return ". ".join([*map(_words, self.before), block, *map(_words, self.after)]) + "."

    @property
    def not_finite(self) -> int:
        return 0


def _words(one: Box) -> str:
    return f"{one.label} ({', '.join(one.details)})" if one.details else one.label


def stack_height(chart: BlockStack) -> float:
    return -_Drawing(chart, 0.0).y + 6


def draw_stack(chart: BlockStack, name: str) -> Iterator[Markup]:
    yield from _Drawing(chart, stack_height(chart) - 6).parts


class _Drawing:
    """Drawn from below: `y` is how far up it has come."""

    def __init__(self, chart: BlockStack, bottom: float):
        self.y, self.parts = bottom, list[Markup]()
        self._text(chart.start)
        for one in chart.before:
            self._arrow()
            self._row([one])
        self._wire(WIRE)
        foot = self.y
        for branch in chart.branches:
            self._branch(branch)
        self._wire(WIRE / 2)
        self._frame(foot, f"× {chart.count:,}")
        for one in chart.after:
            self._arrow()
            self._row([one])
        self._arrow()
        self._text(chart.end)

    def _text(self, words: str) -> None:
        self.parts.append(text(MIDDLE, self.y - 3, words))
        self.y -= LINE + 2

    def _wire(self, length: float) -> None:
        self.parts.append(rule(MIDDLE, self.y, MIDDLE, self.y - length, "axis"))
        self.y -= length

    def _arrow(self) -> None:
        self._wire(WIRE)
        self._point(MIDDLE, self.y)

    def _point(self, x: float, y: float, turn: str = "l-3 5M{} {}l3 5") -> None:
        here = f"{short(x)} {short(y)}"
        self.parts.append(line(f"M{here}" + turn.format(short(x), short(y)), "wire"))

    def _row(self, boxes: Sequence[Box | None]) -> None:
        """Boxes side by side, of one height; what is said of them on the right, from the top."""
        details = [words for one in boxes if one for words in one.details]
        tall = max(BOX_HEIGHT, LINE * len(details))
        wide = (BOX_WIDTH - 6 * (len(boxes) - 1)) / len(boxes)
        left = MIDDLE - BOX_WIDTH / 2
        self.y -= tall
        for place, one in enumerate(boxes):
            x = left + place * (wide + 6)
            if one is None:
                self.parts.append(rule(x + wide / 2, self.y, x + wide / 2, self.y + tall, "axis"))
                continue
            self.parts.append(box(x, self.y, wide, tall, f"part c{one.colour}"))
            self.parts.append(text(x + wide / 2, self.y + tall / 2 + 4, one.label, style="row"))
        first = self.y + tall / 2 + 4 - LINE * (len(details) - 1) / 2
        self.parts += [text(BESIDE, first + LINE * n, words, "start") for n, words in enumerate(details)]

    def _branch(self, branch: Branch) -> None:
        self._wire(WIRE / 2)
        start = self.y
        for boxes in zip_longest(*branch.columns):
            self._arrow()
            self._row(boxes)
        self._arrow()
        self.y -= 2 * PLUS
        centre = self.y + PLUS
        self.parts += [circle(MIDDLE, centre, PLUS, "field"), text(MIDDLE, centre + 4, "+", style="row")]
        way = f"M{short(MIDDLE)} {short(start)}H{short(RESIDUAL)}V{short(centre)}H{short(MIDDLE - PLUS)}"
        self.parts.append(line(way, "wire"))
        self._point(MIDDLE - PLUS, centre, "l-5 -3M{} {}l-5 3")
        if branch.of_sum:
            self._arrow()
            self._row([branch.of_sum])

    def _frame(self, foot: float, label: str) -> None:
        wide = MIDDLE + BOX_WIDTH / 2 + 8 - FRAME
        self.parts.append(box(FRAME, self.y, wide, foot - self.y, "field"))
        self.parts.append(text(2, self.y - 5, label, "start", "row"))
