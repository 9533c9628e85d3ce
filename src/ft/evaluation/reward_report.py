"""The numbers of a reward model's report card, from scored pairs: the paper's grid, and what says how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ft.evaluation.calibration import (
    by_quality,
    calibration_error,
    correlations,
    histogram,
    log_loss,
    reliability,
    spearman,
    unsafe_detection,
)
from ft.evaluation.statistics import wilson

COLUMNS = {1: "significantly", 2: "better", 3: "slightly", 4: "negligibly", None: "none"}
AVERAGE, ALL, NONE = "average", "all", "none"
LONGER = "longer answer"
"""The baseline that stands beside every model: its score is the answer's length in tokens."""
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer: its score by each model, and what the row says of it (None: nothing)."""

    scores: Mapping[str, float]
    tokens: int
    characters: int
    safe: bool | None = None
    gold: float | None = None


@dataclass(frozen=True)
class ScoredPair:
    """A row of preferences; `rating` is 1 (significantly better) to 4 (negligibly), or None."""

    rating: int | None
    axis: str | None
    chosen: ScoredAnswer
    rejected: ScoredAnswer

    def lead(self, model: str) -> float:
        """How far the chosen answer is ahead, by score or, for the baseline, in tokens."""
        if model == LONGER:
            return float(self.chosen.tokens - self.rejected.tokens)
        return self.chosen.scores[model] - self.rejected.scores[model]


Some = Sequence[ScoredPair]


def accuracy(differences: Sequence[float]) -> dict[str, Any]:
    """The share ranked right, a tie as half of it, with its 95 % interval; `strict` has ties as wrong, as TRL has.

    Half keeps the baseline comparable, which ties often: one that says nothing has 50 %.
    """
    pairs, ties = len(differences), sum(d == 0 for d in differences)
    right = sum(d > 0 for d in differences)
    low, high = wilson(right + ties / 2, pairs)
    share = (right + ties / 2) / pairs
    return {"pairs": pairs, "ties": ties, "accuracy": share, "low": low, "high": high, "strict": right / pairs}


class ReportCard:
    """All numbers of one or two reward models; `models` are their names, the judged one first."""

    def __init__(self, pairs: Some, models: Sequence[str], thresholds: Sequence[float]):
        self.pairs, self.models, self.thresholds = pairs, tuple(models), tuple(thresholds)
        axes = sorted({pair.axis or NONE for pair in pairs})
        self.axes = [*axes, ALL] if len(axes) > 1 else axes
        self.main = self.axes[-1]  # the row over all pairs
        ratings = {pair.rating for pair in pairs}
        self.columns = [name for rating, name in COLUMNS.items() if rating is not None or None in ratings]

    def of(self, axis: str = ALL, column: str = AVERAGE) -> list[ScoredPair]:
        """The pairs of one axis and one column of the grid."""
        return [
            pair
            for pair in self.pairs
            if axis in (ALL, pair.axis or NONE) and column in (AVERAGE, COLUMNS[pair.rating])
        ]

    def cells(self, measure: Callable[[Some], dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Axis → column → what `measure` says of its pairs, where there are any."""
        by_axis: dict[str, dict[str, Any]] = {axis: {} for axis in self.axes}
        for axis, column in product(self.axes, (*self.columns, AVERAGE)):
            if group := self.of(axis, column):
                by_axis[axis][column] = measure(group)
        return by_axis

    def grid(self) -> dict[str, Any]:
        """Model → axis → column → accuracy (arXiv:2307.09288, tables 7 and 8), the baseline last."""
        return {
            model: self.cells(lambda pairs, model=model: accuracy([p.lead(model) for p in pairs]))  # type: ignore[misc]
            for model in (*self.models, LONGER)
        }

    def whole(self) -> dict[str, Any]:
        """Everything, for metrics.json."""
        metrics: dict[str, Any] = {"grid": self.grid(), "histograms": {m: self.histograms(m) for m in self.models}}
        for name, of in (
            ("monotone_by_axis", self.monotone),
            ("calibration", self.calibration),
            ("length", self.length),
            ("quality", self.quality),
            ("by_safety", self.by_safety),
            ("unsafe", self.unsafe),
        ):
            metrics[name] = {
                model: numbers_of_model for model in self.models if (numbers_of_model := of(model)) is not None
            }
        return metrics | ({"disagreement": self.disagreement()} if len(self.models) == 2 else {})

    def monotone(self, model: str) -> dict[str, bool] | None:
        """By axis, does accuracy never rise from the clearest rating to the least clear? Of two ratings or more."""
        by_axis = {}
        for axis, row in self.grid()[model].items():
            falling = [row[column]["accuracy"] for column in self.columns if column in row and column != NONE]
            if len(falling) > 1:
                by_axis[axis] = falling == sorted(falling, reverse=True)
        return by_axis or None

    def calibration(self, model: str) -> dict[str, Any]:
        lead = [pair.lead(model) for pair in self.pairs]
        bins = reliability(lead)
        return {"log_loss": log_loss(lead), "calibration_error": calibration_error(bins), "bins": bins}

    def sides(self) -> list[tuple[str, ScoredAnswer]]:
        return [(name, getattr(pair, name)) for name in SIDES for pair in self.pairs]

    def length(self, model: str) -> dict[str, Any]:
        """Correlation of score and length, over answers and of what chosen is ahead in both."""
        sides = [side for _, side in self.sides()]
        by_unit: dict[str, Any] = {}
        for unit in ("tokens", "characters"):
            longer = [getattr(pair.chosen, unit) - getattr(pair.rejected, unit) for pair in self.pairs]
            by_unit[unit] = {
                "answers": correlations([s.scores[model] for s in sides], [getattr(s, unit) for s in sides]),
                "pairs": correlations([pair.lead(model) for pair in self.pairs], longer),
                "longer_wins": accuracy([float(d) for d in longer]),
            }
        return by_unit

    def quality(self, model: str) -> dict[str, Any] | None:
        """By axis, the mean score by the quality the row knows (arXiv:2307.09288, figure 29)."""
        by_axis = {}
        for axis in self.axes:
            sides = [s for pair in self.of(axis) for s in (pair.chosen, pair.rejected) if s.gold is not None]
            gold, scores = [s.gold for s in sides if s.gold is not None], [s.scores[model] for s in sides]
            if sides:
                by_axis[axis] = {"spearman": spearman(scores, gold), "levels": by_quality(scores, gold)}
        return by_axis or None

    def by_safety(self, model: str) -> dict[str, Any] | None:
        """Accuracy by the labels of chosen and rejected, as `safe_unsafe` (arXiv:2307.09288, table 29)."""
        groups: dict[str, list[float]] = {}
        for pair in self.pairs:
            labels = pair.chosen.safe, pair.rejected.safe
            if None not in labels:
                name = "_".join("safe" if label else "unsafe" for label in labels)
                groups.setdefault(name, []).append(pair.lead(model))
        return {name: accuracy(lead) for name, lead in sorted(groups.items())} or None

    def unsafe(self, model: str) -> dict[str, Any] | None:
        """By threshold and side, which unsafe answers a score below it finds."""
        labelled = [(name, side) for name, side in self.sides() if side.safe is not None]
        if not labelled:
            return None
        return {
            f"{threshold:g}": {
                side_name: unsafe_detection([s.scores[model] for s in group], [bool(s.safe) for s in group], threshold)
                for side_name in (ALL, *SIDES)
                if (group := [side for name, side in labelled if side_name in (ALL, name)])
            }
            for threshold in self.thresholds
        }

    def histograms(self, model: str) -> dict[str, Any]:
        """Counts of scores by side, and of what chosen is ahead by rating."""
        scores = {name: [s.scores[model] for side, s in self.sides() if side == name] for name in SIDES}
        lead = {name: [pair.lead(model) for pair in self.of(column=name)] for name in self.columns}
        return {"scores": histogram(scores), "ahead": histogram({n: values for n, values in lead.items() if values})}

    def disagreement(self) -> dict[str, Any]:
        """How often the two models put different answers first; a tie of either is no disagreement."""
        one, other = self.models

        def differ(pairs: Some) -> dict[str, Any]:
            products = [pair.lead(one) * pair.lead(other) for pair in pairs]
            differing, ties = sum(p < 0 for p in products), sum(p == 0 for p in products)
            low, high = wilson(differing, len(pairs))
            counts = {"pairs": len(pairs), "ties": ties, "differ": differing}
            return {**counts, "share": differing / len(pairs), "low": low, "high": high}

        scores = [[side.scores[model] for _, side in self.sides()] for model in self.models]
        return {"grid": self.cells(differ), "scores": correlations(*scores)}

    def numbers(self) -> dict[str, Any]:
        """What `require:` may ask for, one flat name each; the second model's begin with `other_`."""
        metrics = self._of_model(self.models[0])
        for model in self.models[1:]:
            metrics |= {f"other_{name}": value for name, value in self._of_model(model).items()}
            metrics["disagree"] = self.disagreement()["grid"][self.main][AVERAGE]["share"]
        longer = self.grid()[LONGER][self.main][AVERAGE]["accuracy"]
        metrics |= {"longer_wins": longer, "over_longer": metrics["accuracy"] - longer, "pairs": len(self.pairs)}
        return {name: value for name, value in metrics.items() if value is not None}

    def _of_model(self, model: str) -> dict[str, Any]:
        rows = self.grid()[model]
        whole = rows[self.main]
        metrics: dict[str, Any] = _with_interval("accuracy", whole[AVERAGE])
        metrics |= {"accuracy_strict": whole[AVERAGE]["strict"], "ties": whole[AVERAGE]["ties"]}
        marks = {name: str(rating or NONE) for rating, name in COLUMNS.items()}
        for column in (column for column in self.columns if column in whole):
            metrics |= _with_interval(f"accuracy_{marks[column]}", whole[column])
        for axis in self.axes[:-1]:
            for column, cell in rows[axis].items():
                metrics[f"accuracy_{axis}" + (f"_{marks[column]}" if column in marks else "")] = cell["accuracy"]
        metrics |= {f"accuracy_{name}": cell["accuracy"] for name, cell in (self.by_safety(model) or {}).items()}
        metrics["monotone"] = (self.monotone(model) or {}).get(self.main)
        metrics |= {k: v for k, v in self.calibration(model).items() if k != "bins"}
        metrics["length_correlation"] = self.length(model)["tokens"]["pairs"]["spearman"]
        metrics["quality_correlation"] = (self.quality(model) or {}).get(self.main, {}).get("spearman")
        for threshold, by_side in (self.unsafe(model) or {}).items():
            metrics |= {f"unsafe_{name}_{threshold}": by_side[ALL][name] for name in ("precision", "recall")}
        return metrics


def _with_interval(name: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell["accuracy"], f"{name}_low": cell["low"], f"{name}_high": cell["high"]}
