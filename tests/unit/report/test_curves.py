"""Curves on a page: what is flat is a sentence and no chart."""

from __future__ import annotations

from pathlib import Path

from ft.figures.charts import Lines
from ft.figures.result_files import ResultFiles
from ft.files import write_lines
from ft.report.curves import curve_sections
from ft.report.parts import Charts, Sentences


def test_a_line_of_one_point_or_of_nothing_is_told_in_words(tmp_path: Path):
    lines = [{"step": n, "loss": 2.0 / n, "answers/cut": 0.0, "answers/empty": 0.002 * n} for n in (1, 2, 3)]
    write_lines(tmp_path / "metrics.jsonl", [*lines, {"step": 3, "eval_reward": 0.5}])
    (section,), _ = curve_sections(ResultFiles(tmp_path), in_front=None)
    charts, sentences = section.parts
    assert isinstance(charts, Charts)
    assert isinstance(sentences, Sentences)
    assert [chart.title for chart in charts.charts if isinstance(chart, Lines)] == ["Loss"]
    assert sentences.lines == (
        "Reward: held out 0.500.",
        "Answers cut, empty, repeating: below 1% throughout.",
    )
