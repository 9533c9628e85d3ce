"""Curves of a training stage: what is logged, where the best step is, and by what it is the best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft.figures.charts import Lines, Point
from ft.figures.draw import axes_of, draw
from ft.figures.result_files import ResultFiles
from ft.figures.svg_file import figure_file
from ft.figures.training import curve_files
from ft.files import write_lines

Drawn = Callable[..., dict[str, Lines]]
LOSSES = (2.0, 1.0, 0.8, 0.9)


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    """The charts by their titles, of these eval losses at steps 0, 50, … and of a learning rate that falls."""

    def charts(losses: tuple[float | None, ...], **train: Any) -> dict[str, Lines]:
        lines = [
            {"step": 50 * n, "epoch": 0.25 * n, "eval_loss": loss, "loss": loss, "learning_rate": 1e-3 / (n + 1)}
            | {"eval_reward": -(loss or 0), "reward": 1.0}
            for n, loss in enumerate(losses)
        ]
        write_lines(tmp_path / "metrics.jsonl", lines)
        files = curve_files(ResultFiles(tmp_path, {"train": train}))
        return {chart.title: chart for chart in files["curves"] if isinstance(chart, Lines)}

    return charts


def test_the_step_of_the_lowest_eval_loss_is_marked_and_a_rise_behind_it_is_told(drawn: Drawn):
    loss = drawn(LOSSES)["Loss"]
    assert loss.best == Point(100, 0.8)
    assert loss.note == "Ring: best step 100 (eval loss 0.800). The eval loss rose to 0.900 by step 150: overfitting."
    ring = f'cx="{axes_of(loss).across(100):g}"'
    assert all(ring in str(svg) and 'class="best"' in str(svg) for svg in (draw(loss, "c"), figure_file("sft", [loss])))
    assert "rose" not in drawn(LOSSES[:3])["Loss"].note
    assert drawn(LOSSES[:1])["Loss"].best is None  # of a single evaluation none is the best


def test_the_best_step_is_that_of_the_value_the_recipe_asks_for(drawn: Drawn):
    charts = drawn(LOSSES, metric_for_best_model="reward", greater_is_better=True, load_best_model_at_end=True)
    assert (charts["Loss"].best, charts["Reward"].best) == (None, Point(100, -0.8))
    assert charts["Reward"].note == "Ring: best step 100 (reward -0.800), whose weights are kept."


def test_a_value_that_is_no_number_is_not_the_best(drawn: Drawn):
    assert drawn((2.0, None, 1.0))["Loss"].best == Point(100, 1.0)


def test_epochs_stand_beside_the_steps_on_an_axis_and_in_the_table(drawn: Drawn):
    rate = drawn(LOSSES)["Learning rate"]
    assert rate.head == ["step", "epoch", "Learning rate"]
    assert [row[:2] for row in rate.rows] == [["0", "0.00"], ["50", "0.25"], ["100", "0.50"], ["150", "0.75"]]
    assert ">epoch 0.2<" in draw(rate, "c")
    assert [point.y for point in rate.series[0].points] == [1e-3, 5e-4, 1e-3 / 3, 2.5e-4]
