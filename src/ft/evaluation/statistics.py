"""How sure a number is: intervals of shares, and of whatever is computed from sums over rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

DRAWS = 2000
OUTSIDE = 0.025  # on either side of a 95 % interval

Value = Callable[[Sequence[float], int], float]


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest near 0 and 1, where the normal interval is not."""
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(stats: Sequence[Sequence[float]], value: Value, seed: int, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval by the percentiles of `value(sums, rows)` over rows drawn again with replacement.

    `stats` (N, D) holds what is summed for each row. The ends are values that came up, none between two of them, so
    that the interval of 1 - x is exactly that of x turned round. All rows alike have no width: see `of_shares`.
    """
    import numpy as np  # a sixth of a second, which `ft run` with nothing to do need not wait for

    table, rng = np.asarray(stats), np.random.default_rng(seed)
    rows = len(table)
    values = sorted(
        value((np.bincount(rng.integers(0, rows, rows), minlength=rows) @ table).tolist(), rows) for _ in range(draws)
    )
    tail = int(OUTSIDE * draws)
    return values[tail], values[draws - 1 - tail]


def mean(sums: Sequence[float], rows: int) -> float:
    return sums[0] / rows


def of_shares(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % interval of a mean: Wilson's of zeros and ones, or where all are one and the same share; else bootstrapped.

    Values outside 0 to 1 that are all the same have no interval but themselves.
    """
    alike = len(set(values)) == 1 and 0 <= values[0] <= 1
    if alike or set(values) <= {0, 1}:
        return wilson(math.fsum(values), len(values))
    return bootstrap([[value] for value in values], mean, seed)
