"""A comparison in one picture, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"wins": "C0", "ties": "0.75", "losses": "C1"}
LENGTHS = {"shorter": "ours shorter", "like": "of like length", "longer": "ours longer"}


def win_rates(found: Mapping[str, Any], path: Path, title: str) -> None:
    """Win rates with 95 % intervals of all pairs, by column and by length, and the shares of wins, ties and losses."""
    from matplotlib.figure import Figure

    rows = {f"all, {found['pairs']:,} pairs": found}
    rows |= {f"{name}, {part['pairs']:,}": part for name, part in found.get("by", {}).items()}
    rows |= {f"{LENGTHS[name]}, {part['pairs']:,}": part for name, part in found["by_length"].items()}
    rows = {name: part for name, part in rows.items() if part["win_rate"] is not None}
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)), layout="constrained")
    figure.suptitle(title)
    rates, shares = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    for place, part in zip(places, rows.values(), strict=True):
        rates.plot([part["win_rate_low"], part["win_rate_high"]], [place, place], color="C0", linewidth=2)
        rates.plot(part["win_rate"], place, "o", color="C0", markersize=6)
        left = 0.0
        total = sum(part[name] for name in COLOURS)
        for name, colour in COLOURS.items():
            share = part[name] / total
            shares.barh(place, share, left=left, color=colour, height=0.7, label=name if not place else None)
            left += share
    rates.axvline(0.5, color="0.5", linewidth=1, linestyle=":")
    rates.set(xlim=(-0.02, 1.02), xlabel="win rate (wins and half of the ties), 95 % interval")
    rates.set_yticks(list(places), list(rows))
    rates.invert_yaxis()
    shares.set(xlim=(0, 1), xlabel="share of pairs with an outcome")
    shares.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    for axes in (rates, shares):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
