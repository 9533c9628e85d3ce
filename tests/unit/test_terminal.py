"""What `ft run` says of finished stages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny
from ft.files import write_json
from ft.report.terminal import show_results

Said = Callable[[dict[str, Any]], str]


@pytest.fixture
def said(tmp_path: Path, base: Path, data: Path) -> Said:
    """The line about an SFT stage that left these numbers."""

    def line(numbers: dict[str, Any]) -> str:
        file, runs = tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base)), tmp_path / "runs"
        folder = tiny.planned(file, runs).stage("sft").folder
        write_json(folder / "done.json", {"stage": "sft", "numbers": numbers})
        told = io.StringIO()
        show_results([tiny.planned(file, runs).stage("sft")], Console(file=told, width=200))
        return told.getvalue().splitlines()[0]

    return line


def test_the_held_out_loss_stands_for_the_loss_of_single_batches(said: Said):
    numbers = {"loss_first": 0.8, "loss_last": 0.9, "eval_loss_first": 1.7, "eval_loss": 0.84, "steps": 5}
    assert said(numbers) == "sft held-out loss 1.700 → 0.840, steps 5"


def test_the_training_loss_is_said_where_nothing_is_held_out(said: Said):
    assert said({"loss_first": 1.5, "loss_last": 0.25, "steps": 5}) == "sft loss 1.500 → 0.250, steps 5"


def test_counts_of_nothing_are_left_out(said: Said):
    assert said({"rows": 4_500, "too_long": 0}) == "sft rows 4,500"
