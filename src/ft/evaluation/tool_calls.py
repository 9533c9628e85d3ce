"""How good the tool calls of answers are: which function, with which arguments, and whether there should be any.

Arguments are compared as the JSON values that they are, in any order of keys; several calls of one answer in any order.
To add a metric: a function and one entry in CALL_METRICS. It returns None for rows that it says nothing about.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ft.data.formats.fields import Row

Calls = Sequence[Row]


def _same_calls(written: Calls | None, wanted: Calls) -> float:
    """1 where exactly the wanted calls were written, none where none is wanted."""
    return float(written is not None and sorted(map(_as_json, written)) == sorted(map(_as_json, wanted)))


def _same_names(written: Calls | None, wanted: Calls) -> float | None:
    """Of rows that want calls: 1 where the wanted functions were called, whatever their arguments."""
    return float(written is not None and sorted(map(_name, written)) == sorted(map(_name, wanted))) if wanted else None


def _same_arguments(written: Calls | None, wanted: Calls) -> float | None:
    """Of rows that want calls: 1 where names and arguments are right."""
    return _same_calls(written, wanted) if wanted else None


def _missing(written: Calls | None, wanted: Calls) -> float | None:
    """Of rows that want calls: 1 where there is none that can be read."""
    return float(not written) if wanted else None


def _unneeded(written: Calls | None, wanted: Calls) -> float | None:
    """Of rows that want no call: 1 where one was written, or begun."""
    return None if wanted else float(written is None or bool(written))


CALL_METRICS: dict[str, Callable[[Calls | None, Calls], float | None]] = {
    "tool_calls": _same_calls,
    "tool_names": _same_names,
    "tool_arguments": _same_arguments,
    "missing_calls": _missing,
    "unneeded_calls": _unneeded,
}
"""Metric → its value for one row, from the calls written (None: one was begun that cannot be read) and those wanted."""


def _name(call: Row) -> str:
    return str(call["function"]["name"])


def _as_json(call: Row) -> str:
    function = call["function"]
    return json.dumps([function["name"], _canonical(function["arguments"])], sort_keys=True)


def _canonical(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is 3. True is no number."""
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
