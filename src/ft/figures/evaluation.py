"""Scores of answers, losses of rows and tasks of the harness, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.evaluation.statistics import wilson
from ft.figures.charts import Chart, Dot, Dots, Lines, Point, Series, histogram
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles, text_of
from ft.figures.write import Figures

NAMES = {"model": "after", "baseline": "before"}
Row = Mapping[str, Any]


def evaluation(files: ResultFiles) -> Figures:
    """Scores by the column `by` from answers.jsonl, measures from metrics.json, losses from losses.jsonl."""
    by = files.blocks.get("evaluate", {}).get("by")
    return {
        "scores": _by_column(files.lines(artifacts.ANSWERS), by),
        "metrics": _measures(files.mapping(artifacts.NUMBERS)),
        "losses": _losses(files.lines(artifacts.LOSSES)),
        "by_position": _by_position(files.table(artifacts.POSITION_TABLE)),
    }


def _by_position(rows: Sequence[Row]) -> list[Chart]:
    points: dict[str, list[Point]] = {}
    for row in rows:
        place, loss = parse_number(row.get("position")), parse_number(row.get("loss"))
        if place is not None and loss is not None:
            name = text_of(row.get("model"))
            points.setdefault(NAMES.get(name, name), []).append(Point(place, loss))
    series = tuple(Series(name, tuple(line)) for name, line in points.items())
    return [Lines("Loss by position", "position in the row", "nats a token", series)] if series else []


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _by_column(answers: Sequence[Row], by: str | None) -> list[Chart]:
    rows = [row for row in answers if _is_number(row.get("score"))]
    if not by or not rows:
        return []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(text_of(row.get(by)) or "none", []).append(row)
    scores = [row[name] for row in rows for name in ("score", "baseline_score") if _is_number(row.get(name))]
    share = all(0 <= score <= 1 for score in scores)
    lines = tuple((name, tuple(_before_after(group, share))) for name, group in groups.items())
    return [Dots(f"Score by {by}", "score", lines, share=share)]


def _before_after(rows: Sequence[Row], share: bool) -> Iterator[Dot]:
    for series, name in (("before", "baseline_score"), ("after", "score")):
        values = [row[name] for row in rows if _is_number(row.get(name))]
        if values:
            low, high = wilson(sum(values), len(values)) if share else (None, None)
            yield Dot(series, sum(values) / len(values), low, high, len(values))


def _measures(metrics: Row) -> list[Chart]:
    """Every measure of answers: what has an interval. One alone is the main number, and shown by `by`."""
    names = [n for n in metrics if f"{n}_low" in metrics and f"{n}_high" in metrics]
    measures = [n for n in names if not n.startswith("baseline_") and n != "eval_loss"]
    rows = tuple((name.replace("_", " "), tuple(_sides(metrics, name))) for name in measures)
    return [Dots("Measures of the answers", "mean over held-out prompts", rows, share=True)] if len(rows) > 1 else []


def _sides(metrics: Row, name: str) -> Iterator[Dot]:
    for series, prefix in (("before", "baseline_"), ("after", "")):
        value, low, high = (metrics.get(f"{prefix}{name}{end}") for end in ("", "_low", "_high"))
        if isinstance(value, (int, float)):
            yield Dot(series, value, low, high)


def _losses(rows: Sequence[Row]) -> list[Chart]:
    """How many rows have which loss: few rows far out carry a mean."""
    by_model: dict[str, list[float]] = {}
    for row in rows:
        for name, loss in row.items():
            if isinstance(loss, Mapping) and loss.get("tokens"):
                by_model.setdefault(NAMES.get(name, name), []).append(loss["nats"] / loss["tokens"])
    if not by_model:
        return []
    return [histogram("Loss of rows", "nats per token", by_model, bins=40, note="Shares of all rows.")]


def tasks(files: ResultFiles) -> Figures:
    """From metrics.json of the harness: every score between 0 and 1."""
    metrics = files.mapping(artifacts.NUMBERS)
    names = [name for name, value in metrics.items() if _is_score(name, value)]
    rows = tuple((name, tuple(_sides(metrics, name))) for name in names)
    return {"tasks": [Dots("Tasks", "score", rows, share=True, note="Bars: 95 % intervals.")] if rows else []}


def _is_score(name: str, value: Any) -> bool:
    plain = not name.startswith("baseline_") and not name.endswith(("_low", "_high", "_questions"))
    return plain and _is_number(value) and 0 <= value <= 1
