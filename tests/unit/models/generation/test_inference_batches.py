"""Batches of inference: what becomes of one that fails, wherever it is computed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft.errors import UserError, fail
from ft.models.generation import executor
from ft.models.generation.executor import Entry, Loader, Tick
from ft.models.generation.resumable import compute_entries


@dataclass(frozen=True)
class Number:
    value: int

    @property
    def key(self) -> str:
        return str(self.value)


def doubling(model: int, batch: Sequence[Number], tick: Tick) -> Iterator[tuple[str, Entry]]:
    for number in batch:
        if number.value == 13:
            raise ZeroDivisionError("no half of it")
        if number.value == 99:
            raise fail("row 99", "is refused")
        yield number.key, {"double": model * number.value}
    tick(len(batch), 0)


def computed(file: Path, values: Sequence[int], **options: Any) -> dict[str, Entry]:
    return compute_entries(
        [Number(value) for value in values], Loader(int, "2"), doubling, file, 4, "test: numbers", **options
    )


def stored(file: Path) -> list[str]:
    return [json.loads(line)["key"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_bad_item_costs_no_other_and_is_tried_again(tmp_path):
    file = tmp_path / "numbers.jsonl"
    found = computed(file, range(10, 18), accepts_failures=True)
    assert found["13"] == {"failed": "ZeroDivisionError: no half of it"}
    assert found["12"] == {"double": 24}
    assert stored(file) == [str(n) for n in range(10, 18) if n != 13]


def test_who_accepts_no_failure_is_told_of_it_when_the_others_are_written(tmp_path):
    file = tmp_path / "numbers.jsonl"
    with pytest.raises(UserError, match=r"test: numbers: 1 of 8 could not be computed, first: ZeroDivisionError"):
        computed(file, range(10, 18))
    assert len(stored(file)) == 7


def test_an_error_of_every_item_is_raised_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError, match="no half"):
        computed(tmp_path / "numbers.jsonl", [13])


def test_what_a_user_has_to_mend_ends_the_work_at_once(tmp_path):
    file = tmp_path / "numbers.jsonl"
    with pytest.raises(UserError, match=r"row 99: is refused"):
        computed(file, [1, 2, 3, 4, 99, 5, 6, 7, 8])
    assert stored(file) == ["1", "2", "3", "4"]


def test_batches_that_end_in_any_order_leave_the_same_file(tmp_path, monkeypatch):
    class Backwards(executor.InProcess):
        def compute(self, *arguments: Any) -> Any:
            found = [(place, list(entries)) for place, entries in super().compute(*arguments)]
            return reversed(found)

    expected = computed(tmp_path / "forwards.jsonl", range(20, 33))
    monkeypatch.setattr(executor, "_executors", [Backwards()])
    assert computed(tmp_path / "backwards.jsonl", range(20, 33)) == expected
    assert (tmp_path / "backwards.jsonl").read_bytes() == (tmp_path / "forwards.jsonl").read_bytes()


def test_a_pickled_loader_is_not_loaded():
    loader = Loader(dict, [("a", 1)])
    loaded = loader()
    assert loader() is loaded
    copy = pickle.loads(pickle.dumps(loader))
    assert copy.identity == loader.identity
    assert copy() == loaded
    assert copy() is not loaded
