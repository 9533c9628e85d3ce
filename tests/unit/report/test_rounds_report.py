"""Rounds on the page and at the end of a run: a version a row, its numbers with intervals, the gain as a curve."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ft.figures.charts import Lines
from ft.figures.draw import draw
from ft.files import write_json
from ft.recipe import read
from ft.report.page import report_page
from ft.report.parts import Charts, Section, Sentences, Table
from ft.report.rounds import fold_rounds, rounds_sections
from ft.report.run import of_plan
from ft.report.terminal import show_rounds
from ft.results.store import Plan, plan
from ft.stages import STAGES

TEXT = """name: rounds
model: hub/name
stages:
  - {kind: sft, data: [rows.jsonl], train: {max_length: 64}}
  - rounds:
      times: 3
      init: {policy: $sft}
      until: {metric: quality.answer, min_gain: 0.1}
      stages:
        - {kind: sft, name: policy, init: $policy, data: [rows.jsonl], train: {max_length: 64}}
        - {kind: evaluate, name: quality, init: $policy, inputs: {baseline: $sft}, data: [rows.jsonl], evaluate: {}}
  - {kind: sft, name: chat, init: $policy, data: [rows.jsonl], train: {max_length: 64}}
  - {kind: evaluate, name: chat-quality, init: $chat, inputs: {baseline: $sft}, data: [rows.jsonl], evaluate: {}}
  - {kind: evaluate, name: other, init: $chat, data: [rows.jsonl], evaluate: {max_new_tokens: 8}}
"""


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two rounds are made, 0.25 → 0.5 → 0.55, and the third is not needed."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    Path("x.yaml").write_text(TEXT, encoding="utf-8")
    recipe = read(Path("x.yaml"), STAGES)
    for number, value in enumerate((0.5, 0.55), 1):
        _measure(plan(recipe, Path("runs")), f"quality-{number}", value, float(number))
    return plan(recipe, Path("runs"))


def _measure(there: Plan, stage: str, value: float, kl: float) -> None:
    planned = there.stage(stage)
    numbers = {"answer": value, "answer_low": value - 0.05, "answer_high": value + 0.05, "kl": kl}
    numbers |= {"baseline_answer": 0.25, "baseline_answer_low": 0.2, "baseline_answer_high": 0.3}
    planned.folder.mkdir(parents=True)
    write_json(planned.folder / "done.json", {"stage": planned.name, "kind": "evaluate", "numbers": numbers})


def section(measured: Plan) -> Section:
    (found,) = rounds_sections(of_plan(measured))
    return found


def test_every_version_is_a_row_with_its_numbers(measured: Plan):
    table, *_ = section(measured).parts
    assert isinstance(table, Table)
    assert table.head == ("version", "quality: accuracy", "quality: KL (nats per answer)")
    assert table.rows == (
        ("start", "25.0% (20.0% to 30.0%)", "·"),
        ("round 1", "50.0% (45.0% to 55.0%)", "1.000"),
        ("round 2", "55.0% (50.0% to 60.0%)", "2.000"),
    )


def test_shares_are_drawn_from_the_start_and_other_units_apart(measured: Plan):
    (charts,) = [part for part in section(measured).parts if isinstance(part, Charts)]
    shares, distance = charts.charts
    assert isinstance(shares, Lines)
    assert isinstance(distance, Lines)
    assert [point.x for point in shares.series[0].points] == [0, 1, 2]
    assert [point.y for point in shares.series[0].points] == [0.25, 0.5, 0.55]
    assert [point.y for point in distance.series[0].points] == [1.0, 2.0]


def test_a_model_behind_the_rounds_that_is_asked_the_same_is_a_version_too(measured: Plan):
    _measure(measured, "chat-quality", 0.6, 3.0)
    _measure(measured, "other", 0.9, 4.0)
    table, charts, *_ = section(plan(measured.recipe, Path("runs"))).parts
    assert isinstance(table, Table)
    assert isinstance(charts, Charts)
    assert [row[:2] for row in table.rows[-2:]] == [
        ("round 2", "55.0% (50.0% to 60.0%)"),
        ("chat", "60.0% (55.0% to 65.0%)"),
    ]
    drawing = draw(charts.charts[0], "versions")
    assert [label for label in ("start", "chat") if f">{label}</text>" in drawing] == ["start", "chat"]


def test_the_chain_shows_each_stage_of_the_rounds_once_with_the_newest_that_is_made(measured: Plan):
    rows = fold_rounds(of_plan(measured))
    assert [(row.stage.name, row.newest, row.rounds) for row in rows] == [
        ("sft", "sft", ""),
        ("policy", "policy-1", "round 1 of 3"),
        ("quality", "quality-2", "round 2 of 3"),
        ("chat", "chat", ""),
        ("chat-quality", "chat-quality", ""),
        ("other", "other", ""),
    ]
    lines = {row.stage.name: row.stage.links for row in rows}
    assert lines["policy"] == (("sft", "init"),)
    assert lines["quality"] == (("policy", "init"), ("sft", "baseline"))
    assert lines["chat"] == (("policy", "init"),)


def test_the_page_says_why_later_rounds_are_not_needed(measured: Plan):
    (sentences,) = [part for part in section(measured).parts if isinstance(part, Sentences)]
    assert "not needed: after round 2 quality.answer gained 0.05" in sentences.lines[0]


def test_a_run_ends_with_the_table_of_versions(measured: Plan):
    text = io.StringIO()
    show_rounds(measured, Console(file=text, width=120))
    assert [line.split()[:2] for line in text.getvalue().splitlines() if line.startswith("round")] == [
        ["round", "1"],
        ["round", "2"],
    ]


def test_rounds_that_have_measured_nothing_have_no_section(measured: Plan, tmp_path: Path):
    assert rounds_sections(of_plan(plan(measured.recipe, tmp_path / "other"))) == []


def test_the_numbers_of_the_page_are_never_broken(measured: Plan):
    page = report_page(of_plan(measured))
    assert "55.0% (50.0% to 60.0%)" in page
    assert not re.search(r"\d\.<wbr>\d", page)


@pytest.mark.parametrize(("measures", "wide"), [(1, False), (4, True)])
def test_a_table_of_many_numbers_has_the_whole_page(measures: int, wide: bool):
    table = Table(("version", *"abcd"[:measures]), (("round 1", *["55.0% (50.0% to 60.0%)"] * measures),))
    assert table.wide == wide
