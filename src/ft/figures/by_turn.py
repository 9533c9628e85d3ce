"""Pictures by turn of a dialogue, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Point = tuple[int, float, float, float]  # turn, value, and the ends of its interval
SHADED = 3  # lines of a panel
Lines = Mapping[str, Sequence[Point]]


def by_turn(panels: Mapping[str, Lines], path: Path, label: str, top: float | None = 1.0) -> None:
    """A panel each with its lines by turn, as PNG; intervals are shaded where few lines leave room for them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in lines.items():
            turns, values, lows, highs = zip(*points, strict=True)
            (line,) = axes.plot(turns, values, marker="o", markersize=3, label=name)
            if len(lines) <= SHADED:
                axes.fill_between(turns, lows, highs, alpha=0.15, color=line.get_color(), linewidth=0)
        axes.set(title=title, xlabel="turn", ylabel=label)
        axes.set_ylim(-0.02 * (top or 1.0) if top else 0, top * 1.02 if top else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # beside the lines
    figure.savefig(path, dpi=120)


def maps(named: Mapping[str, Any], path: Path, marks: Sequence[int], bin_tokens: int) -> None:
    """Square arrays (bins, bins) from 0 to 1 side by side: which tokens look at which; `marks` are bins of turns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(named), 5), layout="constrained")
    shown: Any = None
    for axes, (title, values) in zip(figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
        shown = axes.imshow(values, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, xlabel=f"read token, in bins of {bin_tokens}", ylabel="reading token")
        axes.set_yticks(list(marks), [f"turn {n}" for n in range(1, len(marks) + 1)], fontsize="x-small")
    figure.colorbar(shown, ax=figure.axes, label="greatest attention over layers and heads", shrink=0.8)
    figure.savefig(path, dpi=120)
