"""What `ft run` says of finished stages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny
from ft.files import write_json, write_lines
from ft.report.terminal import show_results

CURVE = [{"step": step, "eval_loss": 2.0 - step / 2} for step in range(4)]
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


def test_a_terminal_shows_the_curve_that_a_file_does_not(tmp_path: Path, base: Path, data: Path):
    there = tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base)), tmp_path / "runs")
    folder = there.stage("sft").folder
    write_json(folder / "done.json", {"stage": "sft", "numbers": {"eval_loss_first": 2.0, "eval_loss": 0.5}})
    write_lines(folder / "metrics.jsonl", CURVE)
    lines = []
    for is_terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, width=200, force_terminal=is_terminal, color_system=None)
        show_results([tiny.planned(tmp_path / "tiny.yaml", tmp_path / "runs").stage("sft")], console)
        lines.append(text.getvalue().splitlines()[0].rstrip())
    assert lines == ["sft held-out loss 2.000 → 0.500 █▆▃▁", "sft held-out loss 2.000 → 0.500"]


def test_the_training_loss_is_said_where_nothing_is_held_out(said: Said):
    assert said({"loss_first": 1.5, "loss_last": 0.25, "steps": 5}) == "sft loss 1.500 → 0.250, steps 5"


def test_counts_of_nothing_are_left_out(said: Said):
    assert said({"rows": 4_500, "too_long": 0}) == "sft rows 4,500"
