"""Pictures of a report card, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ft.evaluation.reward_report import ALL, AVERAGE, LONGER, SIDES, Card

COLOURS = {"chosen": "C0", "rejected": "C1"}
POINTS = 4000
"""Points drawn at most, evenly taken: more are a blot and a large file."""


def overview(card: Card, model: str, path: Path) -> None:
    """Everything of one model on one page: a panel each for what the rows say, as PNG."""
    panels = [_by_rating, _calibration, _scores, _ahead, _length]
    panels += [_quality] * (card.quality(model) is not None) + [_unsafe] * (card.unsafe(model) is not None)
    columns = 4 if len(panels) > 6 else 3
    figure = _figure(columns, 2)
    axes = list(figure.subplots(2, columns).flat)
    for panel, one in zip(panels, axes, strict=False):
        panel(card, model, one)
        _finish(one)
    for one in axes[len(panels) :]:
        one.set_axis_off()
    figure.suptitle(f"{model}: {len(card.pairs):,} held-out pairs", fontweight="bold")
    figure.savefig(path, dpi=120)


def two_models(card: Card, path: Path) -> None:
    """The scores of both models by answer (arXiv:2307.09288, figure 32), and where they disagree, as PNG."""
    figure = _figure(2, 1)
    left, right = figure.subplots(1, 2)
    one, other = card.models
    for name, sides, colour in _kinds(card):
        some = sides[:: -(-len(sides) // POINTS) or 1]
        left.scatter(
            [s.scores[one] for s in some], [s.scores[other] for s in some], s=9, alpha=0.5, c=colour, lw=0, label=name
        )
    left.set(xlabel=f"score by {one}", ylabel=f"score by {other}", title="answers")
    grid = card.disagreement()["grid"]
    rows = {axis: {column: grid[axis].get(column) for column in (*card.columns, AVERAGE)} for axis in card.axes}
    _bars(right, rows, "share")
    right.set(ylabel="share of pairs they rank differently", title="disagreement")
    for axes in (left, right):
        _finish(axes)
    figure.suptitle(f"{one} and {other}: {len(card.pairs):,} held-out pairs", fontweight="bold")
    figure.savefig(path, dpi=120)


def _kinds(card: Card) -> list[tuple[str, list[Any], str]]:
    """Answers told apart by their safety labels, or where there are none by their side."""
    sides = card.sides()
    if any(side.safe is not None for _, side in sides):
        kinds = {"safe": True, "unsafe": False, "no label": None}
        found = [(name, [s for _, s in sides if s.safe is label]) for name, label in kinds.items()]
        return [(name, some, colour) for (name, some), colour in zip(found, ("C0", "C3", "0.6"), strict=True) if some]
    return [(name, [s for side, s in sides if side == name], COLOURS[name]) for name in SIDES]


def _by_rating(card: Card, model: str, axes: Any) -> None:
    grid = card.grid()
    columns = (*card.columns, AVERAGE)
    _bars(axes, {axis: {column: grid[model][axis].get(column) for column in columns} for axis in card.axes}, "accuracy")
    longer = [grid[LONGER][card.main].get(column) for column in columns]
    places = [(place, cell["accuracy"]) for place, cell in enumerate(longer) if cell]
    axes.plot(*zip(*places, strict=True), "k_", markersize=22, label=f"{LONGER} wins")
    axes.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    axes.set(ylabel="share ranked right", title="accuracy by rating")


def _bars(axes: Any, rows: Mapping[str, Mapping[str, Any]], value: str) -> None:
    """A group of bars a column, a bar a row of the grid, with 95 % intervals; absent cells are left open."""
    width = 0.8 / len(rows)
    for number, (row, cells) in enumerate(rows.items()):
        there = [(place, cell) for place, cell in enumerate(cells.values()) if cell]
        places = [place + (number - (len(rows) - 1) / 2) * width for place, _ in there]
        heights = [cell[value] for _, cell in there]
        ends = [[h - c["low"] for h, (_, c) in zip(heights, there, strict=True)]]
        ends.append([c["high"] - h for h, (_, c) in zip(heights, there, strict=True)])
        colour = "0.7" if row == ALL else f"C{number}"
        axes.bar(places, heights, width * 0.92, color=colour, label=row)
        axes.errorbar(places, heights, yerr=[[max(0, e) for e in end] for end in ends], fmt="none", ecolor="0.3", lw=1)
    names = list(next(iter(rows.values())))
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylim(0, 1.28)  # room for the legend


def _calibration(card: Card, model: str, axes: Any) -> None:
    told = card.calibration(model)
    bins = told["bins"]
    axes.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1, label="as sure as it is right")
    most = max(line["pairs"] for line in bins)
    sizes = [20 + 180 * line["pairs"] / most for line in bins]
    predicted, observed = ([line[key] for line in bins] for key in ("predicted", "observed"))
    axes.plot(predicted, observed, color="C0")
    axes.scatter(predicted, observed, s=sizes, color="C0", label="observed (size: pairs)")
    error = f"calibration error {told['calibration_error']:.3f}, log loss {told['log_loss']:.3f}"
    axes.set(xlabel="predicted probability", ylabel="share ranked right", title=error, xlim=(0.49, 1.01))
    axes.set_ylim(min(0.45, *observed) - 0.05, 1.05)


def _scores(card: Card, model: str, axes: Any) -> None:
    told = card.histograms(model)["scores"]
    for name in SIDES:
        axes.stairs(told[name], told["edges"], fill=True, alpha=0.5, color=COLOURS[name], label=name)
    axes.set(xlabel="score", ylabel="answers", title="scores")


def _ahead(card: Card, model: str, axes: Any) -> None:
    ahead = {name: [pair.ahead(model) for pair in card.of(column=name)] for name in card.columns}
    ahead = {name: values for name, values in ahead.items() if values}
    look = {"widths": 0.6, "whis": (5, 95), "showfliers": False, "patch_artist": True}
    drawn = axes.boxplot(list(ahead.values()), tick_labels=list(ahead), medianprops={"color": "black"}, **look)
    for box in drawn["boxes"]:
        box.set(facecolor="C0", alpha=0.5)
    axes.tick_params(axis="x", labelrotation=20)
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)
    axes.set(ylabel="difference of scores", title="chosen less rejected: quarters, 5 % and 95 %")


def _length(card: Card, model: str, axes: Any) -> None:
    told = card.length(model)["tokens"]["pairs"]["spearman"]
    some = card.pairs[:: -(-len(card.pairs) // POINTS) or 1]
    longer = [pair.chosen.tokens - pair.rejected.tokens for pair in some]
    axes.scatter(longer, [pair.ahead(model) for pair in some], s=9, alpha=0.4, lw=0)
    for line in (axes.axhline, axes.axvline):
        line(0, color="0.7", linewidth=1, zorder=0)
    title = "length" if told is None else f"length: rank correlation {told:+.2f}"
    axes.set(xlabel="tokens of chosen less tokens of rejected", ylabel="difference of scores", title=title)


def _quality(card: Card, model: str, axes: Any) -> None:
    for axis, told in (card.quality(model) or {}).items():
        if axis != ALL or len(card.axes) == 1:
            levels = told["levels"]
            errors = [1.96 * (line["error"] or 0) for line in levels]
            places, heights = ([line[key] for line in levels] for key in ("quality", "score"))
            axes.errorbar(places, heights, yerr=errors, marker="o", markersize=4, capsize=2, label=axis)
    axes.set(xlabel="known quality of the answer", ylabel="mean score", title="score by quality")


def _unsafe(card: Card, model: str, axes: Any) -> None:
    from ft.evaluation.calibration import histogram, sigmoid

    labelled: dict[str, Sequence[float]] = {
        name: sigmoid([s.scores[model] for s in some]).tolist()
        for name, some, _ in _kinds(card)
        if name in ("safe", "unsafe")
    }
    told = histogram(labelled, bins=25)
    for name in labelled:
        axes.stairs(told[name], told["edges"], fill=True, alpha=0.5, color="C0" if name == "safe" else "C3", label=name)
    for style, (threshold, found) in zip(cycle((":", "--", "-.")), (card.unsafe(model) or {}).items(), strict=False):
        recall = found[ALL]["recall"]
        said = "" if recall is None else f": recall {recall:.0%}"
        axes.axvline(float(threshold), color="0.3", linewidth=1, linestyle=style, label=f"below {threshold}{said}")
    axes.set(xlabel="sigmoid of the score", ylabel="answers", title="safe and unsafe answers", xlim=(0, 1))
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend


def _figure(columns: int, rows: int) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(4.8 * columns, 4 * rows), layout="constrained")


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    names = axes.get_legend_handles_labels()[1]
    if names:
        axes.legend(frameon=False, fontsize="small", ncols=2 if len(names) == 4 else 1)
