"""What happens by turn of a dialogue: whether an instruction is obeyed, and how much attention it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.figures.charts import Chart, HeatMap, Lines, Point, Series, Shares
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles, text_of
from ft.figures.write import Figures


def consistency(files: ResultFiles) -> Figures:
    """From by_turn.csv: recall by turn with intervals, a chart each cell that several models were asked in, and one of
    all cells."""
    lines: dict[str, dict[str, list[Point]]] = {}
    for row in files.table(artifacts.RECALL_TABLE):
        turn, recall = parse_number(row.get("turn")), parse_number(row.get("recall"))
        if turn is not None and recall is not None:
            point = Point(turn, recall, parse_number(row.get("low")), parse_number(row.get("high")))
            lines.setdefault(text_of(row.get("cell")), {}).setdefault(text_of(row.get("model")), []).append(point)
    compared = {cell: models for cell, models in lines.items() if len(models) > 1} or dict(list(lines.items())[:1])
    charts: list[Chart] = [
        _recall(f"Instruction followed, {cell.replace('_', ' ')}", models) for cell, models in compared.items()
    ]
    after = {cell.replace("_", " "): models["after"] for cell, models in lines.items() if "after" in models}
    if len(after) > 1:
        charts.append(_recall("Instruction followed after training, every cell", after, bands=False))
    return {"consistency": charts, "changes": _outcomes(files.mapping(artifacts.NUMBERS))}


OUTCOMES = {
    "newest": "the newest instruction",
    "part": "a part of it",
    "mixed": "it and an earlier one",
    "earlier": "an earlier one",
    "neither": "neither",
}


def _outcomes(numbers: Mapping[str, Any]) -> list[Chart]:
    """What answers obey behind a change, a bar for each number of turns since it, a chart each cell."""
    charts: list[Chart] = []
    for cell, models in numbers.get("cells", {}).items():
        if outcomes := models.get("after", {}).get("outcomes"):
            bars = tuple((since, tuple(float(of.get(name, 0)) for name in OUTCOMES)) for since, of in outcomes.items())
            title = f"What is followed after a change, {cell.replace('_', ' ')}"
            charts.append(Shares(title, "turns since the change", tuple(OUTCOMES.values()), bars))
    return charts


def _recall(title: str, lines: Mapping[str, Sequence[Point]], bands: bool = True) -> Lines:
    series = [Series(name, tuple(p if bands else Point(p.x, p.y) for p in points)) for name, points in lines.items()]
    note = "Shaded: 95 % intervals." if bands else ""
    return Lines(title, "turn", "share of answers", tuple(series), share=True, note=note)


MEASURES = (("mean", "Mean over the answer's tokens"), ("greatest", "Greatest of the answer's tokens"))


def attention(files: ResultFiles) -> Figures:
    """From attention.csv, attention to the instruction by turn; from map.json, which tokens read which."""
    rows = files.table(artifacts.ATTENTION_TABLE)
    charts = [_attention(rows, column, title) for column, title in MEASURES]
    return {"attention": [chart for chart in charts if chart.series], "map": _maps(files.mapping("map.json"))}


def _attention(rows: Sequence[Mapping[str, str]], column: str, title: str) -> Lines:
    lines: dict[str, list[Point]] = {}
    for row in rows:
        turn, value = parse_number(row.get("turn")), parse_number(row.get(column))
        if turn is not None and value is not None:
            ends = (parse_number(row.get(f"{column}{end}")) for end in ("_low", "_high"))
            lines.setdefault(text_of(row.get("model")), []).append(Point(turn, value, *ends))
    series = tuple(Series(name, tuple(points)) for name, points in lines.items())
    sure = any(point.low is not None for one in series for point in one.points)
    note = "Shaded: one standard error to each side." if sure else ""
    return Lines(title, "turn", "attention, 0 to 1", series, note=note)


def _maps(saved: Mapping[str, Any]) -> list[Chart]:
    """A map a model of the first dialogue, all layers and heads at once, neighbouring tokens in one cell."""
    if not saved:
        return []
    tokens, starts = saved["bin_tokens"], tuple(saved["starts"])
    note = f"One cell is {tokens} tokens by {tokens}; its greatest attention over layers and heads. Numbers: turns."
    return [
        HeatMap(
            f"Which tokens read which, {name}",
            "token it reads",
            "reading token",
            tuple(map(tuple, values)),
            starts,
            note=note,
        )
        for name, values in saved["maps"].items()
    ]
