"""Figures: every kind of chart is drawn for real, its values stand at their places, and nothing breaks a drawing."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from PIL import Image

from ft.figures.axes import Scale, ticks, way_through
from ft.figures.charts import (
    Chart,
    Dot,
    Dots,
    HeatMap,
    Histogram,
    Lines,
    Point,
    Scatter,
    Series,
    Shares,
    histogram,
    thin_out,
)
from ft.figures.draw import axes_of, colours, draw, legend
from ft.figures.small import range_picture, sparkline
from ft.figures.svg_file import figure_file
from ft.figures.text import sparkline as text_sparkline
from ft.figures.training import SPAN, smooth

SVG = "{http://www.w3.org/2000/svg}"
LOSS = Lines("Loss", "step", "nats", (Series("held out", (Point(0, 2.0), Point(50, 1.0), Point(100, 0.0))),))
RECALL = Lines(
    "Recall", "turn", "share", (Series("after", (Point(1, 1.0, 0.9, 1.0), Point(2, 0.5, 0.4, 0.6))),), share=True
)
NAN, INF = float("nan"), float("inf")
GAPS = (Point(0, NAN), Point(1, 2.0), Point(INF, 3.0), Point(2, 1.0, NAN, INF))

CHARTS: dict[str, Chart] = {
    "lines": LOSS,
    "bands": RECALL,
    "dots": Dots("By topic", "score", (("sum", (Dot("before", 0.0), Dot("after", 0.5, 0.25, 0.75, 12))),), share=True),
    "histogram": Histogram("Scores", "score", (0.0, 1.0, 2.0), (("safe", (1, 3)), ("unsafe", (0, 0))), marks=(0.5,)),
    "scatter": Scatter("Length", "tokens", "score", (("pairs", ((-3.0, 1.0), (4.0, -1.0))),), zero=True),
    "shares": Shares("Outcomes", "share of pairs", ("wins", "ties", "losses"), (("all pairs", (2.0, 1.0, 1.0)),)),
    "heat map": HeatMap("Map", "read", "reading", ((0.5, 0.0), (1.0, 0.25)), starts=(0, 1)),
}
BROKEN: dict[str, Chart] = {
    "lines": Lines("L", "step", "", (Series("a", GAPS),)),
    "only NaN": Lines("L", "step", "", (Series("a", (Point(0, NAN),)),), level=NAN),
    "no points": Lines("L", "step", "", ()),
    "dots": Dots("D", "x", (("row", (Dot("a", NAN, 0.1, 0.2), Dot("b", 0.5, -INF, INF))),), share=True),
    "histogram": Histogram("H", "x", (0.0, NAN, 2.0), (("a", (1, 1)),)),
    "counted": histogram("H", "x", {"a": [NAN, 1.0, 3.0], "b": [], "c": [-INF]}),
    "scatter": Scatter("S", "x", "y", (("a", ((NAN, 1.0), (2.0, INF))),), zero=True),
    "shares": Shares("S", "x", ("a", "b"), (("row", (NAN, 1.0)), ("none", (0.0, 0.0)))),
    "heat map": HeatMap("M", "x", "y", ((NAN, 2.0), (0.5, -1.0)), starts=(0,)),
}  # fmt: skip


def tree(svg: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(svg))


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter() if one.tag.removeprefix(SVG) == "text"]


def numbers(root: ElementTree.Element) -> Iterator[float]:
    """Every number of every place and path of a drawing; one that is not finite is written as a word."""
    for one in root.iter():
        for name, value in one.attrib.items():
            if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "d", "width", "height", "viewBox", "transform"):
                assert not re.search("nan|inf", value, re.IGNORECASE), (one.tag, name, value)
                yield from map(float, re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", value))


# Every kind of chart, drawn


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_a_chart_is_drawn_with_its_axes_its_name_and_its_words(chart):
    root = tree(draw(chart, "chart-7"))
    assert root.attrib["aria-labelledby"] == "chart-7-t"
    assert (root.find("title").text, root.find("desc").text) == (chart.title, chart.description)
    assert len(chart.description) > 10
    assert any(chart.x in text for text in texts(root))
    assert any(chart.y in text for text in texts(root))
    assert all(math.isfinite(number) for number in numbers(root))
    assert chart.caption == chart.note
    assert all(len(row) == len(chart.head) for row in chart.rows)
    assert chart.rows


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_a_figure_is_a_file_that_stands_alone(chart):
    text = figure_file("sft", [chart, chart])
    root = tree(text)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == "sft"
    assert {"sft", chart.title, *(name for name, _ in legend(chart))} <= set(texts(root))
    assert "var(" not in text
    assert "light-dark" not in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|<script", text)
    ids = [one.attrib["id"] for one in root.iter() if "id" in one.attrib]
    assert len(ids) == len(set(ids))
    assert all(math.isfinite(number) for number in numbers(root))


@pytest.mark.parametrize("chart", BROKEN.values(), ids=BROKEN)
def test_what_is_not_finite_is_left_out_of_the_drawing_and_said(chart):
    """report/svg.py raised ValueError: cannot convert float NaN to integer."""
    root = tree(draw(chart, "c"))
    assert all(math.isfinite(number) for number in numbers(root))
    assert tree(figure_file("broken", [chart])) is not None
    assert chart.rows is not None
    assert chart.description is not None
    if chart is not BROKEN["no points"]:
        assert "not finite" in chart.caption


def test_a_line_has_a_gap_where_a_value_is_missing():
    values = (2.0, 1.0, NAN, 1.0, 0.0)
    chart = Lines("Loss", "step", "nats", (Series("", tuple(map(Point, range(5), values))),))
    assert tree(draw(chart, "c")).find("path[@class='line c0']").attrib["d"].count("M") == 2
    assert chart.caption == "1 value is not finite and not drawn."
    assert chart.rows[2] == ["2", "not a number"]
    assert chart.description == "Loss: from 2.000 at step 0 to 0 at step 4, between 0 and 2.000."


# Values stand at their places


def test_a_known_series_stands_at_known_places():
    assert axes_of(LOSS).path(LOSS.series[0].points) == "M46 22l152 85 152 85"
    assert LOSS.description == "held out: from 2.000 at step 0 to 0 at step 100, between 0 and 2.000."
    assert LOSS.rows == [["0", "2.000"], ["50", "1.000"], ["100", "0"]]


def test_steps_of_a_path_are_short_and_end_where_their_places_are():
    places = [(0.0, 10.0), (0.1, 9.9), (100.33, 9.9), (50.0, -0.04), (50.0, 60.25)]
    way = way_through(places)
    assert way == "M0 10l.1-.1 100.2 0-50.3-9.9 0 60.2"
    steps = [float(step) for step in re.findall(r"-?(?:\d*\.\d|\d+)", way)]
    ends = (sum(steps[::2]), sum(steps[1::2]))
    assert ends == pytest.approx((50.0, 60.2))


def test_a_scale_maps_its_ends_and_what_lies_between():
    scale = Scale(0, 10, 100, 0)
    assert [scale(v) for v in (0, 5, 10)] == [100, 50, 0]
    assert Scale(3, 3, 0, 100)(3) == 0  # a single value divides by nothing


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.3, 1.7, [0, 0.5, 1, 1.5, 2]),
        (-3, 8, [-5, 0, 5, 10]),
        (0, 572, [0, 200, 400, 600]),
        (2, 2, [2, 2.5]),
        (1e-12, 3e-12, [1e-12, 1.5e-12, 2e-12, 2.5e-12, 3e-12]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, marks):
    assert ticks(low, high) == pytest.approx(marks, rel=1e-9)
    assert marks[0] <= low
    assert marks[-1] >= high


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-300, 1.0, 1e300, -1e308])
def test_every_float_has_ticks(value):
    assert tree(draw(Lines("x", "step", "y", (Series("", (Point(0, value), Point(1, 0.0))),)), "c")) is not None


def test_axes_are_labelled_with_what_they_measure():
    words = texts(tree(draw(LOSS, "c")))
    assert words[0] == "nats"
    assert words[-1] == "step"
    assert [word for word in words if word.isdigit()] == ["0", "1", "2", "0", "20", "40", "60", "80", "100"]


def test_steps_are_whole():
    chart = Lines("Loss", "step", "nats", (Series("", (Point(3, 1.0), Point(4, 2.0))),))
    assert texts(tree(draw(chart, "c")))[-3:] == ["3", "4", "step"]


def test_intervals_are_drawn_and_told():
    band = tree(draw(CHARTS["bands"], "c")).find("path[@class='band c0']")
    assert band.attrib["d"] == "M46 22l304 68 0 34-304-85Z"
    assert CHARTS["bands"].rows[1] == ["2", "50.0% (40.0% to 60.0%)"]


def test_the_interval_of_a_single_point_is_a_whisker():
    chart = Lines("Recall", "turn", "share", (Series("after", (Point(1, 0.5, 0.4, 0.6),)),), share=True)
    whisker = tree(draw(chart, "c")).find("line[@class='whisker c0']")
    assert [whisker.attrib[name] for name in ("x1", "y1", "y2")] == ["198", "124", "90"]


def test_dots_and_whiskers_stand_where_their_values_are():
    root = tree(draw(CHARTS["dots"], "c"))
    dots = [root.find(f"path[@class='dots large c{colour}']").attrib["d"] for colour in (5, 0)]
    assert dots == ["M112 19.5h0", "M227 26.5h0"]
    assert root.find("path[@class='whisker c0']").attrib["d"] == "M169.5 26.5l115 0"
    assert CHARTS["dots"].rows == [["sum", "0.0%", "50.0% (25.0% to 75.0%) of 12"]]


def test_a_histogram_shows_shares_of_each_group():
    steps = tree(draw(CHARTS["histogram"], "c")).findall("path[@class='steps c0']")
    assert steps[0].attrib["d"] == "M46 192l0-53.1 152 0 0-106.3 152 0 0 159.4"
    assert CHARTS["histogram"].description == "safe: 4, most between 1.000 and 2.000."


def test_more_than_two_histograms_stand_below_each_other_at_one_scale():
    counts = (("a", (1, 3)), ("b", (4, 0)), ("c", (1, 1)))
    root = tree(draw(Histogram("H", "x", (0.0, 1.0, 2.0), counts), "c"))
    feet = [float(path.attrib["d"].split()[1].split("l")[0]) for path in root.findall("path")[1:]]
    assert feet == [46, 92, 138]  # and the fullest bin of all is as high as its strip
    assert [path.attrib["d"].split("l")[1].split()[0] for path in root.findall("path")[1:]] == ["0-8", "0-32", "0-16"]
    assert {"a", "b", "c", "x"} <= set(texts(root))


def test_values_are_counted_in_bins_that_hold_the_least_and_the_greatest():
    chart = histogram("H", "x", {"a": [0.0, 0.4, 1.0], "b": [0.5]}, bins=2)
    assert (chart.edges, chart.counts) == ((0.0, 0.5, 1.0), (("a", (2, 1)), ("b", (0, 1))))
    assert histogram("H", "x", {"a": [3.0, 3.0]}).counts == (("a", (2,)),)


def test_a_scatter_has_a_dot_for_every_pair():
    cloud = tree(draw(CHARTS["scatter"], "c")).find("path[@class='cloud c0']")
    assert cloud.attrib["d"] == "M46 22h0m304 170h0"


def test_parts_of_a_whole_fill_the_bar():
    bars = tree(draw(CHARTS["shares"], "c")).findall("rect")
    assert [bar.attrib["class"] for bar in bars] == ["bar c0", "bar c5", "bar c1"]
    assert sum(float(bar.attrib["width"]) for bar in bars) == pytest.approx(342 - 112)


def test_a_heat_map_holds_every_value_and_a_table_of_its_blocks():
    chart = CHARTS["heat map"]
    image = tree(draw(chart, "c")).find("mask/image")
    cells = Image.open(io.BytesIO(base64.b64decode(image.attrib["href"].partition(",")[2])))
    assert list(cells.tobytes()) == [128, 0, 255, 64]
    assert chart.head == ["reading, turn", "1", "2"]
    assert chart.rows == [["1", "0.500", "0"], ["2", "1.000", "0.250"]]


# Names, colours, legends


def test_the_same_name_has_the_same_colour_everywhere():
    assert colours(["before", "after"]) == [5, 0]
    assert colours(["after", "new"])[0] == 0
    assert len(set(colours(["a", "b", "after", "before"]))) == 4
    assert colours(["mean, held out", "mean, training rows", "margin"]) == [0, 0, 1]


def test_a_legend_of_one_name_that_is_the_title_is_none():
    assert legend(Lines("kl", "step", "kl", (Series("", (Point(0, 1.0),)),))) == []


def test_names_in_charts_are_escaped():
    chart = Lines("<b>&", "<i>", "", (Series("<s>", (Point(0, 1.0), Point(1, 2.0))),))
    assert tree(draw(chart, "c")).find("title").text == "<b>&"
    assert "<b>&" in texts(tree(figure_file("<h>", [chart])))


def test_long_lines_are_thinned_evenly_to_the_last():
    points = [Point(step, step) for step in range(1_000)]
    some = thin_out(points, 120)
    assert len(some) == 112
    assert (some[0], some[1].x, some[-1]) == (points[0], 9, points[-1])


# Small drawings, and lines of text


@pytest.mark.parametrize("values", [[], [1.0], [NAN, 2.0]])
def test_a_line_of_fewer_than_two_values_is_no_picture(values):
    assert sparkline(values, "loss") == ""
    assert text_sparkline(values) == ""


def test_a_share_that_is_no_number_is_no_picture():
    assert range_picture(NAN, 0.5, 0.1, 0.9, "x") == ""
    assert list(numbers(tree(range_picture(0.5, NAN, 0.1, INF, "x"))))


def test_a_sparkline_of_text_goes_from_the_first_value_to_the_last():
    assert text_sparkline([8, 6, 4, 2, 1]) == "█▆▄▂▁"
    assert text_sparkline([1, NAN, 1]) == "▁▁"
    assert len(text_sparkline(list(range(500)))) == 24


def test_a_smoothed_line_keeps_the_level_and_follows_what_lasts():
    flat = smooth([Point(step, 2.0) for step in range(30)])
    assert [round(point.y, 9) for point in flat] == [2.0] * 30
    stepped = smooth([Point(step, float(step >= 50)) for step in range(150)])
    assert stepped[49].y == 0
    assert 0.6 < stepped[50 + SPAN - 1].y < 0.7  # all but 1/e of the way
    broken = smooth([Point(0, 1.0), Point(1, math.nan), Point(2, 1.0)])
    assert [point.y for point in broken[::2]] == [1.0, 1.0]
    assert math.isnan(broken[1].y)
