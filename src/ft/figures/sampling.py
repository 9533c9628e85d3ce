"""What sampling N answers is worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.figures.charts import Chart, Lines, Point, Series, histogram
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles
from ft.figures.write import Figures

ALWAYS = ("best", "median")


def sampling(files: ResultFiles) -> Figures:
    """Best and median of N answers by N, by temperature where several were tried, and the scores of all answers."""
    return {
        "best_of_n": _by(files, "best_of_n.csv", "answers", "N, answers a prompt", "Best and median of N answers"),
        "temperatures": _by(files, "temperatures.csv", "temperature", "temperature", "Best and median by temperature"),
        "scores": _scores(files.lines(artifacts.SAMPLES), files.lines(artifacts.ROWS)),
    }


def _by(files: ResultFiles, table: str, column: str, x: str, title: str) -> list[Chart]:
    rows = files.table(table)
    lines = {name: _points(rows, column, name) for name in (rows[0] if rows else ()) if name != column}
    # A function that is the score itself would lie on the line of the best
    selection = {name: points for name, points in lines.items() if name in ALWAYS or points != lines.get("best")}
    series = tuple(Series(name, points) for name, points in selection.items() if points)
    return [Lines(title, x, "score, mean over prompts", series)] if series else []


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[Point, ...]:
    cells = [(parse_number(row.get(x)), parse_number(row.get(y))) for row in rows]
    return tuple(Point(a, b) for a, b in cells if a is not None and b is not None)


def _scores(samples: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    scores = {"all answers": list(_numbers(samples)), "in rows": list(_numbers(map(_sampling_record, rows)))}
    if not scores["all answers"]:
        return []
    return [histogram("Scores of answers", "score", scores, bins=20, note="Shares of each group.")]


def _sampling_record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a row says of its answer; of a pair, of the chosen one."""
    sampled = row.get("sampled") or {}
    chosen: Mapping[str, Any] = sampled.get("chosen", sampled)
    return chosen


def _numbers(rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> Iterator[float]:
    return (row["score"] for row in rows if type(row.get("score")) in (int, float))
