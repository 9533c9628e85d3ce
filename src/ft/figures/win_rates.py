"""How often a judge prefers one model's answers to the other's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft import artifacts
from ft.figures.charts import Chart, Dot, Dots, Shares
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles
from ft.figures.write import Figures

OUTCOMES = ("wins", "ties", "losses")
LENGTHS = {"longer": "ours longer", "like": "similar length", "shorter": "ours shorter"}


def win_rates(files: ResultFiles) -> Figures:
    """From metrics.json: win rates and outcomes of all pairs, by what they are about, and by which answer is longer."""
    by_name = groups(files.mapping(artifacts.NUMBERS))
    dots = tuple(
        (name, (Dot("win rate", g["win_rate"], g.get("win_rate_low"), g.get("win_rate_high"), g.get("pairs")),))
        for name, g in by_name.items()
        if parse_number(g.get("win_rate")) is not None
    )
    if not dots:
        return {}
    note = "Ties count as half. Line: no difference. Bars: 95 % intervals."
    charts: list[Chart] = [Dots("Win rate", "share of pairs", dots, share=True, level=0.5, note=note)]
    counts = tuple(
        (name, tuple(float(g[outcome]) for outcome in OUTCOMES))
        for name, g in by_name.items()
        if all(type(g.get(outcome)) in (int, float) for outcome in OUTCOMES)
    )
    if counts:
        charts.append(Shares("Wins, ties and losses", "share of pairs with an outcome", OUTCOMES, counts))
    return {"judge": charts}


def groups(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The outcomes of all pairs, of those about one thing, and by which answer is longer."""
    by_name: dict[str, Mapping[str, Any]] = {"all pairs": metrics}
    by_name |= {str(name): group for name, group in (metrics.get("by") or {}).items()}
    by_length = (metrics.get("by_length") or {}).items()
    return by_name | {LENGTHS.get(name, name): group for name, group in by_length}
