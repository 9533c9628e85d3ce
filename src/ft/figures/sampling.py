"""What sampling K answers is worth, as tables and pictures, drawn without a screen."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.data.selection import Point


def best_of_n(points: Sequence[Point], by_function: Mapping[str, Sequence[float]], folder: Path, title: str) -> None:
    """Best and median of N answers against N, and what the best is worth by each function, as best_of_n.csv and .png;
    a function that is the score itself is drawn once."""
    names = ("answers", "best", "median", *by_function)
    rows = [(p.answers, p.best, p.median, *(v[n] for v in by_function.values())) for n, p in enumerate(points)]
    _table(folder / "best_of_n.csv", names, rows)
    figure, axes = _axes(title, "N, answers a prompt", "score, mean over prompts")
    counts, top = [point.answers for point in points], [point.best for point in points]
    axes.plot(counts, top, marker="o", markersize=3, label="best of N")
    axes.plot(counts, [point.median for point in points], marker="o", markersize=3, label="median of N", color="0.6")
    for name, values in by_function.items():
        if any(abs(value - score) > 1e-9 for value, score in zip(values, top, strict=True)):
            axes.plot(counts, values, linestyle="--", marker="o", markersize=3, label=f"{name} of the best of N")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    figure.savefig(folder / "best_of_n.png", dpi=120)


def histogram(every: Sequence[float], taken: Sequence[float], path: Path, title: str) -> None:
    """The scores of all answers and of those that became rows, each as shares of its own number, as PNG."""
    figure, axes = _axes(title, "score", "share of answers")
    low, high = min(every), max(every)
    bins = [low + (high - low) * step / 20 for step in range(21)] if high > low else [low - 0.5, high + 0.5]
    for scores, label, colour in ((every, "all answers", "0.7"), (taken, "in rows", "C0")):
        weights = [1 / len(scores)] * len(scores)
        axes.hist(scores, bins, weights=weights, label=label, color=colour, alpha=0.75)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def sweep(swept: Mapping[float, Point], folder: Path, title: str) -> None:
    """Best and median of K answers by temperature, as temperatures.csv and temperatures.png; `best` decides."""
    ordered = sorted(swept.items())
    _table(folder / "temperatures.csv", ("temperature", "best", "median"), [(t, p.best, p.median) for t, p in ordered])
    figure, axes = _axes(title, "temperature", "score, mean over prompts")
    values = [temperature for temperature, _ in ordered]
    most = ordered[0][1].answers
    axes.plot(values, [point.best for _, point in ordered], marker="o", label=f"best of {most}")
    axes.plot(values, [point.median for _, point in ordered], marker="o", label=f"median of {most}", color="0.6")
    axes.legend(frameon=False)
    figure.savefig(folder / "temperatures.png", dpi=120)


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _table(path: Path, names: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow(names)
        table.writerows([f"{value:.6g}" for value in row] for row in rows)
