"""How near ft came to the truth: with `--properties 2` or more, the greatest distances are printed at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

GREATEST: dict[str, tuple[float, float]] = {}


@pytest.fixture
def near() -> Callable[[str, float, float], None]:
    """Asserts that a distance is below its bound, and remembers the greatest of each name."""

    def check(what: str, distance: float, bound: float) -> None:
        GREATEST[what] = max(distance, GREATEST.get(what, (0.0, bound))[0]), bound
        assert distance < bound, what

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--properties") > 1 and GREATEST:
        terminalreporter.section("greatest distances to the truth")
        for what, (distance, bound) in sorted(GREATEST.items()):
            terminalreporter.line(f"{what}: {distance:.1e} (bound {bound:.0e})")
