"""A figure in a line of text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ft.figures.numbers import is_finite

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 24


def sparkline(values: Sequence[float]) -> str:
    """'█▆▄▃▂▁▁▁': at most WIDTH values, evenly from first to last, between the least and the greatest; nothing of
    fewer than two finite ones."""
    finite = [value for value in values if is_finite(value)]
    if len(finite) < 2:
        return ""
    count = min(len(finite), WIDTH)
    some = [finite[round(place * (len(finite) - 1) / (count - 1))] for place in range(count)]
    low, high = min(some), max(some)
    if low == high:
        return BLOCKS[0] * count
    return "".join(BLOCKS[round((value - low) / (high - low) * (len(BLOCKS) - 1))] for value in some)
