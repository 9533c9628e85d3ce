"""How a number is written in figures, tables and sentences."""

from __future__ import annotations

import math


def is_finite(value: float) -> bool:
    """Whether a float can hold it: JSON has whole numbers of any length."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def format_number(value: float | str | None, share: bool = False) -> str:
    """A number in few characters: 97.4%, 12,345, 0.841, 3.2e-05; a missing one is a dot."""
    if value is None:
        return "·"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not is_finite(value):
        return "not a number"
    if share:
        return f"{value:.1%}"
    if isinstance(value, int) or (abs(value) >= 1000 and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.1 or abs(value) >= 100 else f"{value:.3f}"


def parse_number(value: object) -> float | None:
    """A cell of a table as a number; None where it holds none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
