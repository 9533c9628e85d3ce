"""Small drawings that stand beside a number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from ft.figures.axes import Axes, Scale, circle, finite_values, line, rule
from ft.figures.charts import Point, interval


def range_picture(value: float, was: float | None, low: float | None, high: float | None, name: str) -> Markup:
    """A share between 0 and 1 on a track: a ring where it was, a dot where it is, its interval as a bar."""
    if not math.isfinite(value):
        return Markup("")
    across = Scale(0, 1, 6, 194)
    parts = [rule(6, 10, 194, 10, "track")]
    if was is not None and math.isfinite(was):
        parts += [rule(across(was), 10, across(value), 10, "way"), circle(across(was), 10, 4, "ring")]
    if ends := interval(low, high):
        parts.append(rule(across(ends[0]), 10, across(ends[1]), 10, "whisker c0 wide"))
    return _small(200, 20, name, [*parts, circle(across(value), 10, 5, "dot c0")])


def sparkline(values: Sequence[float], name: str) -> Markup:
    """A line without axes: how it went."""
    points = [Point(place, value) for place, value in enumerate(finite_values(values))]
    if len(points) < 2:
        return Markup("")
    low, high = min(p.y for p in points), max(p.y for p in points)
    axes = Axes(Scale(0, len(points) - 1, 5, 195), Scale(low, high, 36, 5))
    end = circle(axes.across(points[-1].x), axes.up(points[-1].y), 4, "dot c0")
    return _small(200, 41, name, [line(axes.path(points), "line c0"), end])


def _small(width: int, height: int, name: str, parts: Sequence[Markup]) -> Markup:
    start = Markup('<svg class="small" role="img" viewBox="0 0 {} {}"><title>{}</title>').format(width, height, name)
    return start + Markup("").join(parts) + Markup("</svg>")
