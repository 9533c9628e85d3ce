"""What is right about the calls of an answer, row by row."""

from typing import Any

import pytest

from ft.evaluation.tool_calls import CALL_METRICS


def call(name: str = "add", **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def values(written: list[dict[str, Any]] | None, wanted: list[dict[str, Any]]) -> list[float | None]:
    return [metric(written, wanted) for metric in CALL_METRICS.values()]


ADD = call(a=1, b=2)


@pytest.mark.parametrize(
    ("written", "wanted", "expected"),
    [
        # written, wanted → tool_calls, tool_names, tool_arguments, missing_calls, unneeded_calls
        ([ADD], [ADD], [1, 1, 1, 0, None]),
        ([call(b=2, a=1)], [ADD], [1, 1, 1, 0, None]),
        ([call(a=1.0, b=2)], [ADD], [1, 1, 1, 0, None]),
        ([call(a=True, b=2)], [ADD], [0, 1, 0, 0, None]),
        ([call(a="1", b=2)], [ADD], [0, 1, 0, 0, None]),
        ([call(a=1, b=2, c=3)], [ADD], [0, 1, 0, 0, None]),
        ([call("look_up", a=1, b=2)], [ADD], [0, 0, 0, 0, None]),
        ([ADD, ADD], [ADD], [0, 0, 0, 0, None]),
        ([call(c=[{"x": 1.0}]), ADD], [ADD, call(c=[{"x": 1}])], [1, 1, 1, 0, None]),
        ([], [ADD], [0, 0, 0, 1, None]),
        (None, [ADD], [0, 0, 0, 1, None]),
        ([], [], [1, None, None, None, 0]),
        ([ADD], [], [0, None, None, None, 1]),
        (None, [], [0, None, None, None, 1]),
    ],
)
def test_each_metric_of_a_row(written: Any, wanted: Any, expected: list[float | None]) -> None:
    assert values(written, wanted) == expected
