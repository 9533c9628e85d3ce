"""Charts and the chain: places are computed, names and descriptions are there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ft.report.chain import chain, drawn
from ft.report.parts import Dot, Dots, Histogram, Lines, Point, Series
from ft.report.run import ReportedStage
from ft.report.svg import Scale, colours, legend, path, scales, sparkline, ticks
from ft.report.svg import drawn as chart_drawn
from ft.result import Result

KNOWN = Lines("Loss", "step", "nats", (Series("held out", (Point(0, 2.0), Point(50, 1.0), Point(100, 0.0))),))


def tree(svg: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def test_a_known_series_stands_at_known_places():
    across, up = scales(KNOWN)
    assert path(KNOWN.series[0].points, across, up) == "M46 12L198 97L350 182"


def test_a_scale_maps_its_ends_and_what_lies_between():
    scale = Scale(0, 10, 100, 0)
    assert [scale(v) for v in (0, 5, 10)] == [100, 50, 0]
    assert Scale(3, 3, 0, 100)(3) == 0  # a single value divides by nothing


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.3, 1.7, [0, 0.5, 1, 1.5, 2]),
        (-3, 8, [-5, 0, 5, 10]),
        (0, 572, [0, 200, 400, 600]),
        (2, 2, [2, 2.5]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, found):
    assert ticks(low, high) == found
    assert found[0] <= low
    assert found[-1] >= high


def test_a_chart_has_a_name_a_description_and_a_table():
    root = tree(chart_drawn(KNOWN, "chart-7"))
    assert root.attrib["aria-labelledby"] == "chart-7-t"
    assert root.find("title").text == "Loss"
    assert root.find("desc").text == "held out: from 2.000 at step 0 to 0 at step 100, between 0 and 2.000."
    assert KNOWN.rows == [["0", "2.000"], ["50", "1.000"], ["100", "0"]]


def test_intervals_are_drawn_and_told():
    chart = Lines(
        "Recall", "turn", "share", (Series("after", (Point(1, 1.0, 0.9, 1.0), Point(2, 0.5, 0.4, 0.6))),), share=True
    )
    band = tree(chart_drawn(chart, "c")).find("path[@class='band c0']")
    assert band.attrib["d"] == "M46 12L350 80L350 114L46 29Z"
    assert chart.rows[1] == ["2", "50.0% (40.0% to 60.0%)"]


def test_dots_and_whiskers_stand_where_their_values_are():
    chart = Dots("By topic", "score", (("sum", (Dot("before", 0.0), Dot("after", 0.5, 0.25, 0.75, 12))),), share=True)
    root = tree(chart_drawn(chart, "c"))
    assert [circle.attrib["cx"] for circle in root.findall("circle")] == ["112", "227"]
    assert [root.find("line[@class='whisker c0']").attrib[name] for name in ("x1", "x2")] == ["169.5", "284.5"]
    assert chart.rows == [["sum", "0.0%", "50.0% (25.0% to 75.0%) of 12"]]


def test_a_histogram_shows_shares_of_each_group():
    chart = Histogram("Scores", "score", (0.0, 1.0, 2.0), (("safe", (1, 3)), ("unsafe", (0, 0))))
    steps = tree(chart_drawn(chart, "c")).findall("path")
    assert steps[0].attrib["d"] == "M46 182L46 128.9L198 128.9L198 22.6L350 22.6L350 182"
    assert chart.described == "safe: 4, most between 1.000 and 2.000."


def test_the_same_name_has_the_same_colour_everywhere():
    assert colours(["before", "after"]) == [5, 0]
    assert colours(["after", "new"])[0] == 0
    assert len(set(colours(["a", "b", "after", "before"]))) == 4
    assert colours(["mean, held out", "mean, training rows", "margin"]) == [0, 0, 1]


def test_a_legend_of_one_name_that_is_the_title_is_none():
    assert legend(Lines("kl", "step", "kl", (Series("", (Point(0, 1.0),)),))) == []


@pytest.mark.parametrize("values", [[], [1.0], [float("nan"), 2.0]])
def test_a_line_of_fewer_than_two_values_is_no_picture(values):
    assert sparkline(values, "loss") == ""


def test_names_in_charts_are_escaped():
    chart = Lines("<b>&", "<i>", "", (Series("<s>", (Point(0, 1.0), Point(1, 2.0))),))
    assert tree(chart_drawn(chart, "c")).find("title").text == "<b>&"


# The chain


FINISHED = Path(__file__).parents[1] / "data" / "old_runs" / "tiny-chat" / "sft-61806cf09908"


def stage(
    name: str, kind: str, *links: tuple[str, str], model: str | None = None, folder: Path = FINISHED
) -> ReportedStage:
    return ReportedStage(name, kind, Result(folder), name, links, model=model)


CHAIN = (
    stage("sft", "sft", model="base"),
    stage("questions", "evaluate", ("sft", "init")),
    stage("gatt", "gatt", ("sft", "init")),
    stage("gatt-sft", "sft", ("sft", "init"), ("gatt", "data")),
    stage("recall", "consistency", ("gatt-sft", "init"), ("sft", "before")),
    stage("dpo", "dpo", ("sft", "init"), folder=Path("not-made")),
)


def test_models_go_on_in_their_lane_and_what_reads_them_stands_beside():
    found = chain(CHAIN, "base")
    assert dict(zip(found.names, found.lanes, strict=True)) | {"dpo": 0} == {
        "base": 0, "sft": 0, "questions": 1, "gatt": 1, "gatt-sft": 0, "recall": 1, "dpo": 0,
    }  # fmt: skip
    assert found.described.endswith("recall from gatt-sft and sft. dpo from sft.")


def test_no_line_runs_through_a_stage_or_through_a_line_from_elsewhere():
    found = chain(CHAIN, "base")
    taken = {(lane, row): ("stage", row) for row, lane in enumerate(found.lanes)}
    for edge in found.edges:
        for row in range(edge.start + 1, edge.end):
            assert taken.setdefault((edge.lane, row), ("line", edge.start)) == ("line", edge.start)


def test_every_parent_has_its_line():
    found = chain(CHAIN, "base")
    lines = {(found.names[edge.start], found.names[edge.end], edge.main) for edge in found.edges}
    assert lines == {
        ("base", "sft", True), ("sft", "questions", True), ("sft", "gatt", True), ("sft", "gatt-sft", True),
        ("gatt", "gatt-sft", False), ("gatt-sft", "recall", True), ("sft", "recall", False), ("sft", "dpo", True),
    }  # fmt: skip


def test_the_picture_shows_states_and_has_a_name():
    root = tree(drawn(chain(CHAIN, "base")))
    assert root.find("title").text == "The chain of stages"
    assert len(root.findall("*[@class='mark absent']")) == 1
    assert len(root.findall("path[@class='edge aside']")) == 2


def test_a_recipe_without_a_model_to_start_from_has_a_chain_too():
    assert chain((stage("scratch", "scratch"), stage("words", "pretrain", ("scratch", "init"))), "").lanes == (0, 0)
