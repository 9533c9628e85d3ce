"""Pictures of a result, drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def loss_curve(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Training and evaluation loss (nats per token) by optimizer step, as PNG; nothing when nothing was logged."""
    series = {
        name: [(line["step"], line[key]) for line in lines if key in line]
        for name, key in (("training rows", "loss"), ("held-out rows", "eval_loss"))
    }
    if not any(series.values()):
        return
    figure, axes = _axes(title, "optimizer step", "loss (nats per token)")
    for name, points in series.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None, markersize=3)
    axes.legend(frameon=False)
    _save(figure, path)


def preference_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Margin, accuracy and log-probabilities (nats an answer) of pairs by optimizer step, as PNG: a margin that grows
    while both answers fall is seen at once."""
    panels = {
        "reward margin": {"margin": "rewards/margins"},
        "share of pairs ranked right": {"accuracy": "rewards/accuracies"},
        "log-probability (nats)": {"chosen": "logps/chosen", "rejected": "logps/rejected"},
    }
    _by_step(lines, panels, path, title)


def reward_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss, accuracy and scores of pairs by optimizer step, as PNG: held-out loss that turns tells of overfitting."""
    panels = {
        "loss (nats a pair)": {"loss": "loss", "safety": "safety_loss"},
        "share of pairs ranked right": {"accuracy": "accuracy"},
        "score": {"mean": "mean_reward", "chosen less rejected": "margin"},
    }
    _by_step(lines, panels, path, title)


def learning_curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str, bound: float | None = None) -> None:
    """Reward, distance from the reference and length of sampled answers by optimizer step, as PNG, and what a critic
    knows, where there is one; `bound` is drawn where the distance comes near. A reward that rises with length or
    distance alone is seen at once."""
    panels = {
        "reward": {"reward": "reward"},
        "KL (nats an answer)": {"kl": "answers/kl"},
        "tokens an answer": {"length": "answers/length"},
    }
    critic = "value/explained_variance"
    if any(critic in line for line in lines):
        panels["explained variance"] = {"critic": critic}
    far = max((line.get("answers/kl") or 0.0 for line in lines), default=0.0)
    _by_step(lines, panels, path, title, {list(panels)[1]: bound} if bound and far > bound / 2 else {})


def _by_step(
    lines: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Mapping[str, str]],
    path: Path,
    title: str,
    bounds: Mapping[str, float] | None = None,
) -> None:
    """A panel each with what is logged under its keys, training rows thin and held-out rows thick; `bounds` are drawn
    across."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (label, series) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for colour, (name, key) in enumerate(series.items()):
            for prefix, width in (("", 1.0), ("eval_", 2.5)):
                points = [(line["step"], line[prefix + key]) for line in lines if prefix + key in line]
                shown = name if not prefix else f"{name}, held out"
                if points:
                    axes.plot(*zip(*points, strict=True), color=f"C{colour}", linewidth=width, label=shown)
        if label in (bounds or {}):
            axes.axhline((bounds or {})[label], color="0.5", linestyle="--", linewidth=1, label="bound")
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():  # below: lines leave no corner free in every run
            axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    _save(figure, path)


def before_and_after(scores: Mapping[str, tuple[float | None, float]], path: Path, title: str, label: str) -> None:
    """Horizontal bars per topic: the score before and after, each from 0 to 1, as PNG."""
    figure, axes = _axes(title, label, "")
    places = range(len(scores))
    before = [value or 0.0 for value, _ in scores.values()]
    if any(value is not None for value, _ in scores.values()):
        axes.barh([place + 0.2 for place in places], before, height=0.38, label="before", color="0.75")
    axes.barh(
        [place - 0.2 for place in places], [v for _, v in scores.values()], height=0.38, label="after", color="C0"
    )
    axes.set_yticks(list(places), list(scores))
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)  # above stands the title
    _save(figure, path)


def loss_by_row(losses: Mapping[str, Sequence[float]], path: Path, title: str) -> None:
    """How many rows have which loss (nats per supervised token), by model, as PNG: few rows far out carry a mean."""
    figure, axes = _axes(title, "loss of a row (nats per token)", "share of rows")
    top = max(max(values) for values in losses.values()) or 1.0
    bins = [top * step / 40 for step in range(41)]
    for colour, (name, values) in zip(("C0", "0.6", "C1"), losses.items(), strict=False):
        axes.hist(values, bins, weights=[1 / len(values)] * len(values), alpha=0.6, color=colour, label=name)
    axes.legend(frameon=False)
    _save(figure, path)


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120)
