"""The report card of reward models, from metrics.json and scores.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.evaluation.statistics import wilson
from ft.figures.charts import Chart, Dot, Dots, Histogram, Lines, Point, Scatter, Series, histogram
from ft.figures.numbers import parse_number
from ft.figures.result_files import ResultFiles
from ft.figures.write import Figures

RATINGS = {
    "significantly": "significantly better",
    "better": "better",
    "slightly": "slightly better",
    "negligibly": "negligibly better",
    "none": "not rated",
    "average": "all",
}
SIDES = ("chosen", "rejected")
MOST_DOTS = 300  # a group; more are a blot, and a large file

Row = Mapping[str, Any]


def judged_models(metrics: Row) -> list[str]:
    """The models of the card, the judged one first; the baseline of the longer answer is none."""
    return [name for name in metrics.get("grid") or () if name in metrics.get("calibration", {})]


def report_card(files: ResultFiles) -> Figures:
    """A figure each model, and one of where two of them disagree."""
    metrics, rows = files.mapping(artifacts.NUMBERS), files.table(artifacts.SCORE_TABLE)
    models = judged_models(metrics)
    figures: dict[str, list[Chart]] = {}
    for name, model in zip(("card", "card-other"), models, strict=False):
        figures[name] = [
            *accuracies(metrics, [model]),
            *calibrations(metrics, [model]),
            *histograms(metrics, [model]),
            *details(metrics, rows, model),
        ]
    if "disagreement" in metrics and len(models) == 2:
        figures["two-models"] = [*disagreement(metrics), *by_both(rows, models)]
    return figures


def accuracies(metrics: Row, models: Sequence[str]) -> Iterator[Dots]:
    for model in models:
        rows: dict[str, list[Dot]] = {}
        for axis, cells in metrics["grid"][model].items():
            for column, cell in cells.items():
                dot = Dot(axis, cell["accuracy"], cell["low"], cell["high"], cell["pairs"])
                rows.setdefault(RATINGS.get(column, column), []).append(dot)
        lines = tuple((label, tuple(dots)) for label, dots in rows.items())
        yield Dots(f"{model}: pair accuracy", "share of pairs", lines, share=True, level=0.5, note="Line: chance.")


def calibrations(metrics: Row, models: Sequence[str]) -> Iterator[Lines]:
    """Of pairs the scores are equally sure of, how many are right (reliability diagram), all models in one."""
    series = []
    for model in models:
        bins = metrics["calibration"][model].get("bins", ())
        points = tuple(
            Point(b["predicted"], b["observed"], *wilson(b["observed"] * b["pairs"], b["pairs"])) for b in bins
        )
        series.append(Series(model, points))
    if any(one.points for one in series):
        note = "On the diagonal: well calibrated. Shaded: 95 % intervals."
        yield Lines("Calibration", "predicted", "observed", tuple(series), share=True, diagonal=True, note=note)


def histograms(metrics: Row, models: Sequence[str]) -> Iterator[Histogram]:
    for model in models:
        for name, x in (("scores", "score"), ("ahead", "score margin (chosen − rejected)")):
            bins = metrics.get("histograms", {}).get(model, {}).get(name)
            if bins:
                counts = tuple((RATINGS.get(k, k), tuple(v)) for k, v in bins.items() if k != "edges")
                title = f"{model}: scores" if name == "scores" else f"{model}: score margin"
                yield Histogram(title, x, tuple(bins["edges"]), counts, note="Shares of each group.")


def details(metrics: Row, rows: Sequence[Row], model: str) -> Iterator[Chart]:
    """Score by known quality, by length, and of answers labelled safe and unsafe, where rows say so."""
    yield from _quality(metrics, model)
    yield from _length(metrics, rows, model)
    yield from _safety(metrics, rows, model)


def _quality(metrics: Row, model: str) -> Iterator[Lines]:
    """Mean score by quality (arXiv:2307.09288, figure 29); 1.96 standard errors to each side."""
    by_axis = metrics.get("quality", {}).get(model) or {}
    some = {axis: cells for axis, cells in by_axis.items() if axis != "all"} or by_axis
    series = []
    for axis, cells in some.items():
        levels = [(line["quality"], line["score"], 1.96 * (line["error"] or 0.0)) for line in cells["levels"]]
        series.append(Series(axis, tuple(Point(x, y, y - wide, y + wide) for x, y, wide in levels)))
    if series:
        note = "Shaded: 95 % intervals."
        yield Lines(f"{model}: score by quality", "known quality of the answer", "mean score", tuple(series), note=note)


def _length(metrics: Row, rows: Sequence[Row], model: str) -> Iterator[Scatter]:
    """Whether a longer answer is scored higher."""
    differences = [
        (_chosen_minus_rejected(row, "tokens_{}"), _chosen_minus_rejected(row, f"{model}_{{}}")) for row in rows
    ]
    dots = tuple((x, y) for x, y in differences if x is not None and y is not None)
    if not dots:
        return
    rank = metrics.get("length", {}).get(model, {}).get("tokens", {}).get("pairs", {}).get("spearman")
    note = f"{_thinning_note(dots)}" + ("" if rank is None else f" Rank correlation over all pairs {rank:+.2f}.")
    x, y = "tokens, chosen − rejected", "difference of scores"
    yield Scatter(f"{model}: length", x, y, (("pairs", _some(dots)),), zero=True, note=note.strip())


def _chosen_minus_rejected(row: Row, column: str) -> float | None:
    chosen, rejected = (parse_number(row.get(column.format(side))) for side in SIDES)
    return None if chosen is None or rejected is None else chosen - rejected


def _safety(metrics: Row, rows: Sequence[Row], model: str) -> Iterator[Histogram]:
    """Sigmoids of the scores of answers whose safety a row knows, and the thresholds below which they count as unsafe
    (arXiv:2307.09288, section 3.4)."""
    from ft.evaluation.calibration import sigmoid

    scores = {
        label: [score for side in SIDES for score in _scores_with_label(rows, model, side, label)] for label in LABELS
    }
    scores = {label: sigmoid(column).tolist() for label, column in scores.items() if column}
    if not scores:
        return
    thresholds = metrics.get("unsafe", {}).get(model) or {}
    recalls = {t: cells["all"]["recall"] for t, cells in thresholds.items()}
    words = [f"below {t}: recall {recall:.0%}" for t, recall in recalls.items() if recall is not None]
    note = f"Lines: thresholds; {', '.join(words)}." if words else ""
    marks = tuple(map(float, thresholds))
    yield histogram(f"{model}: safe and unsafe answers", "sigmoid of the score", scores, 25, marks, note)


LABELS = {"safe": "True", "unsafe": "False"}


def _scores_with_label(rows: Sequence[Row], model: str, side: str, label: str) -> Iterator[float]:
    for row in rows:
        score = parse_number(row.get(f"{model}_{side}"))
        if row.get(f"safety_{side}") == LABELS[label] and score is not None:
            yield score


def disagreement(metrics: Row) -> Iterator[Dots]:
    grid = metrics["disagreement"]["grid"]
    rows = tuple(
        (f"{axis}, {RATINGS.get(column, column)}" if len(grid) > 1 else RATINGS.get(column, column), (dot,))
        for axis, cells in grid.items()
        for column, cell in cells.items()
        if column == "average" or len(grid) == 1
        for dot in (Dot("differ", cell["share"], cell["low"], cell["high"], cell["pairs"]),)
    )
    yield Dots("Pairs the two models order differently", "share of pairs", rows, share=True)


def by_both(rows: Sequence[Row], models: Sequence[str]) -> Iterator[Scatter]:
    """Each answer's scores by both models (arXiv:2307.09288, figure 32)."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for side in SIDES:
            x, y = (parse_number(row.get(f"{model}_{side}")) for model in models)
            label = {"True": "safe", "False": "unsafe"}.get(str(row.get(f"safety_{side}")), side)
            if x is not None and y is not None:
                groups.setdefault(label, []).append((x, y))
    if groups:
        one, other = models
        note = _thinning_note(max(groups.values(), key=len))
        dots = tuple((name, _some(rows_of_group)) for name, rows_of_group in groups.items())
        yield Scatter("Answers by both models", f"score by {one}", f"score by {other}", dots, note=note)


def _some(dots: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple(dots[:: -(-len(dots) // MOST_DOTS) or 1])


def _thinning_note(dots: Sequence[tuple[float, float]]) -> str:
    stride = -(-len(dots) // MOST_DOTS)
    return f"Every {stride}th of {len(dots):,}." if stride > 1 else ""
