"""The small shape that fit tests look at."""

from __future__ import annotations

import pytest
from shapes_seen import llama

from ft.fit.shapes import Shape, shape_of


@pytest.fixture(scope="session")
def small() -> Shape:
    return shape_of(llama(), "its config")
