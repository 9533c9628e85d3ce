"""The loss by position is the loss of the rows, taken apart where their tokens stand."""

from __future__ import annotations

import csv
from typing import Any

import pytest

import tiny
from ft.files import read_lines


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, base: Any, data: Any) -> dict[str, Any]:
    """Evaluations of one model, by position and not."""
    folder = tmp_path_factory.mktemp("by-position")
    common = {"kind": "evaluate", "data": [{"path": str(data)}], "rows": {"train_on": "all"}}
    options = {"loss": True, "baseline": False, "batch_size": 8}
    stages = [
        {**common, "name": "whole", "evaluate": options},
        {**common, "name": "parts", "evaluate": {**options, "by_position": 4}},
    ]
    there = tiny.planned(tiny.recipe(folder, stages, model=str(base)), folder / "runs")
    return {name: tiny.make(there, name).result for name in ("whole", "parts")}


def test_the_stretches_add_up_to_the_loss_of_the_rows(measured):
    whole, parts = measured["whole"].numbers, measured["parts"].numbers
    assert parts["eval_loss"] == pytest.approx(whole["eval_loss"], abs=1e-6)
    with (measured["parts"].folder / "by_position.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["position"]) for row in rows] == list(range(0, 4 * len(rows), 4))
    assert sum(int(row["tokens"]) for row in rows) == parts["eval_tokens"]
    nats = sum(float(row["loss"]) * int(row["tokens"]) for row in rows)
    assert nats / parts["eval_tokens"] == pytest.approx(parts["eval_loss"], abs=1e-6)


def test_the_first_stretch_lacks_the_token_that_nothing_predicts(measured):
    rows = len(read_lines(measured["parts"].folder / "losses.jsonl"))
    with (measured["parts"].folder / "by_position.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert int(first["tokens"]) == 3 * rows


def test_the_picture_is_there_where_it_was_asked_for(measured):
    assert (measured["parts"].folder / "by_position.svg").exists()
    assert not (measured["whole"].folder / "by_position.svg").exists()
