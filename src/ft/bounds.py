"""The one rule for comparing a measured number with a bound: what is not finite meets none.

`value > bound` lets NaN through, and `value < least` does too. Every check that may stop a run asks here.
"""

from __future__ import annotations

from math import isfinite
from typing import Any


def is_at_most(value: Any, bound: float) -> bool:
    """Whether `value` is a finite number no larger than the bound."""
    return is_finite(value) and value <= bound


def is_at_least(value: Any, bound: float) -> bool:
    """Whether `value` is a finite number no smaller than the bound."""
    return is_finite(value) and value >= bound


def is_finite(value: Any) -> bool:
    """Whether `value` is a number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and isfinite(value)
