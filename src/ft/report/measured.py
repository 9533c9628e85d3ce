"""What the kinds that measure have found, as charts and tables: one function a file or a kind of file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.evaluation.statistics import wilson
from ft.report.answers import cut, prompt_of
from ft.report.left import Left, number, words
from ft.report.numbers import said
from ft.report.parts import (
    Answered,
    Answers,
    Chart,
    Charts,
    Dot,
    Dots,
    Histogram,
    Lines,
    Point,
    Section,
    Series,
    Side,
    Table,
)

RATINGS = {
    "significantly": "much better",
    "better": "better",
    "slightly": "slightly better",
    "negligibly": "hardly better",
    "none": "not rated",
    "average": "all",
}
Row = Mapping[str, Any]


def by_topic(left: Left) -> list[Section]:
    """Scores of an `evaluate` stage by the column it is split by, before and after, with intervals."""
    left.taken.add("scores.png")
    column = left.blocks.get("evaluate", {}).get("by")
    rows = [row for row in left.lines(artifacts.ANSWERS) if type(row.get("score")) in (int, float)]
    if not column or not rows:
        return []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(words(row.get(column)) or "none", []).append(row)
    share = all(
        0 <= row[name] <= 1
        for row in rows
        for name in ("score", "baseline_score")
        if type(row.get(name)) in (int, float)
    )
    lines = tuple((name, tuple(_before_after(some, share))) for name, some in groups.items())
    return [Section(f"By {column}", (Charts((Dots(f"Score by {column}", "score", lines, share=share),)),))]


def _before_after(rows: Sequence[Row], share: bool) -> Iterator[Dot]:
    for series, name in (("before", "baseline_score"), ("after", "score")):
        values = [row[name] for row in rows if type(row.get(name)) in (int, float)]
        if values:
            low, high = wilson(sum(values), len(values)) if share else (None, None)
            yield Dot(series, sum(values) / len(values), low, high, len(values))


def consistency(left: Left) -> list[Section]:
    """Recall by turn with intervals, a chart each cell that several models were asked in, and one of all cells."""
    rows = left.table(artifacts.RECALL_TABLE)
    left.taken |= {"consistency.png"}
    if not rows:
        return []
    lines: dict[str, dict[str, list[Point]]] = {}
    for row in rows:
        turn, recall = number(row.get("turn")), number(row.get("recall"))
        if turn is not None and recall is not None:
            point = Point(turn, recall, number(row.get("low")), number(row.get("high")))
            lines.setdefault(words(row.get("cell")), {}).setdefault(words(row.get("model")), []).append(point)
    several = {cell: models for cell, models in lines.items() if len(models) > 1} or dict(list(lines.items())[:1])
    charts = [_by_turn(f"Obeyed, {cell.replace('_', ' ')}", models) for cell, models in several.items()]
    after = {cell.replace("_", " "): models["after"] for cell, models in lines.items() if "after" in models}
    if len(after) > 1:
        charts.append(_by_turn("Obeyed after training, every cell", after, bands=False))
    return [Section("How long an instruction is obeyed", (Charts(tuple(charts)), *_obedience(left)))]


def _by_turn(title: str, lines: Mapping[str, Sequence[Point]], bands: bool = True) -> Lines:
    series = [Series(name, tuple(p if bands else Point(p.x, p.y) for p in points)) for name, points in lines.items()]
    note = "Shaded: 95 % intervals." if bands else ""
    return Lines(title, "turn", "share of answers", tuple(series), share=True, note=note)


def _obedience(left: Left) -> Iterator[Answers]:
    """One dialogue of the first cell: what each model said in some turns."""
    rows = left.lines(artifacts.ANSWERS)
    first = next(iter(rows), None)
    if first is None or "turn" not in first:
        return
    here = [row for row in rows if (row.get("cell"), row.get("dialogue")) == (first.get("cell"), first.get("dialogue"))]
    shown = []
    for turn in sorted({row["turn"] for row in here if row.get("turn") in (1, 2, 5, 10, 20)}):
        sides = tuple(_obeys(row) for row in here if row["turn"] == turn)
        shown.append(Answered((), sides, f"turn {turn}"))
    asked = ", ".join(first["obeyed"]) if isinstance(first.get("obeyed"), Mapping) else "an instruction"
    cell = words(first.get("cell")).replace("_", " ")
    yield Answers(tuple(shown), f"The first dialogue of “{cell}”; asked for, once at its start: {asked}.")


def _obeys(row: Row) -> Side:
    told = row.get("obeyed") or {}
    good = all(told.values()) if isinstance(told, Mapping) else None
    right = {True: ", answer right", False: ", answer wrong"}.get(row.get("right"), "")  # type: ignore[arg-type]
    return Side(words(row.get("model")), words(row.get("answer")), ("obeyed" if good else "not obeyed") + right, good)


def attention(left: Left) -> list[Section]:
    rows = left.table(artifacts.ATTENTION_TABLE)
    left.taken |= {"attention.png"}
    charts = []
    for column, title in (("mean", "Mean over the answer's tokens"), ("greatest", "Greatest of the answer's tokens")):
        lines: dict[str, list[Point]] = {}
        for row in rows:
            turn, value = number(row.get("turn")), number(row.get(column))
            if turn is not None and value is not None:
                lines.setdefault(words(row.get("model")), []).append(Point(turn, value))
        series = tuple(Series(name, tuple(points)) for name, points in lines.items())
        if series:
            charts.append(Lines(title, "turn", "attention", series))
    return [Section("Attention to the instruction", (Charts(tuple(charts)),))] if charts else []


def sampling(left: Left) -> list[Section]:
    """What sampling N answers is worth, and the temperatures that were tried."""
    charts = []
    for name, column, title in (
        ("best_of_n.csv", "answers", "Best and median of N answers"),
        ("temperatures.csv", "temperature", "Best and median by temperature"),
    ):
        rows = left.table(name)
        left.taken.add(name.replace(".csv", ".png"))
        values = [key for key in (rows[0] if rows else ()) if key != column]
        series = tuple(Series(v, _points(rows, column, v)) for v in values)
        if series:
            charts.append(Lines(title, "N, answers a prompt" if column == "answers" else column, "score", series))
    return [Section("What sampling is worth", (Charts(tuple(charts)),))] if charts else []


def _points(rows: Sequence[Row], x: str, y: str) -> tuple[Point, ...]:
    found = [(number(row.get(x)), number(row.get(y))) for row in rows]
    return tuple(Point(a, b) for a, b in found if a is not None and b is not None)


def win_rates(left: Left) -> list[Section]:
    """How often a judge prefers the model, of all pairs, by what they are about, and by which answer is longer."""
    found = left.mapping(artifacts.NUMBERS)
    groups = {"all pairs": {**found, "pairs": found.get("pairs")}}
    groups |= {f"{name}": told for name, told in (found.get("by") or {}).items()}
    groups |= {f"ours {name}" + " length" * (name == "like"): t for name, t in (found.get("by_length") or {}).items()}
    rows = tuple(
        (
            name,
            (
                Dot(
                    "win rate", told["win_rate"], told.get("win_rate_low"), told.get("win_rate_high"), told.get("pairs")
                ),
            ),
        )
        for name, told in groups.items()
        if number(told.get("win_rate")) is not None
    )
    if not rows:
        return []
    left.taken.add("judge.png")
    note = "Ties count as half. Line: no difference. Bars: 95 % intervals."
    return [
        Section("Win rate", (Charts((Dots("Win rate", "share of pairs", rows, share=True, level=0.5, note=note),)),))
    ]


# The report card of a reward model


def card(left: Left) -> list[Section]:
    """Accuracy by rating, calibration, scores, length, and where two reward models disagree."""
    found = left.mapping(artifacts.NUMBERS)
    if not isinstance(found.get("grid"), Mapping):
        return []
    left.taken |= {"card.png", "card-other.png", "two-models.png"}
    models = [name for name in found["grid"] if name in found.get("calibration", {})]
    charts: list[Chart] = [*_accuracies(found, models), *_calibrations(found, models), *_histograms(found, models[:1])]
    sections = [Section("Report card", (Charts(tuple(charts)), _grid(found)))]
    if isinstance(found.get("disagreement"), Mapping):
        sections.append(Section("Where the two disagree", (Charts((_disagreement(found),)),)))
    return [*sections, *_hardest(left, models[:1])]


def _accuracies(found: Row, models: Sequence[str]) -> Iterator[Dots]:
    for model in models:
        rows: dict[str, list[Dot]] = {}
        for axis, cells in found["grid"][model].items():
            for column, cell in cells.items():
                dot = Dot(axis, cell["accuracy"], cell["low"], cell["high"], cell["pairs"])
                rows.setdefault(RATINGS.get(column, column), []).append(dot)
        lines = tuple((label, tuple(dots)) for label, dots in rows.items())
        yield Dots(f"{model}: pairs ranked right", "share of pairs", lines, share=True, level=0.5, note="Line: chance.")


def _calibrations(found: Row, models: Sequence[str]) -> Iterator[Lines]:
    series = []
    for model in models:
        bins = found["calibration"][model].get("bins", ())
        points = tuple(
            Point(b["predicted"], b["observed"], *wilson(b["observed"] * b["pairs"], b["pairs"])) for b in bins
        )
        series.append(Series(model, points))
    if any(one.points for one in series):
        note = "On the line: as often right as it is sure. Shaded: 95 % intervals."
        yield Lines("How sure, how right", "predicted", "observed", tuple(series), share=True, diagonal=True, note=note)


def _histograms(found: Row, models: Sequence[str]) -> Iterator[Histogram]:
    for model in models:
        for name, x in (("scores", "score"), ("ahead", "chosen less rejected")):
            told = found.get("histograms", {}).get(model, {}).get(name)
            if told:
                counts = tuple((RATINGS.get(k, k), tuple(v)) for k, v in told.items() if k != "edges")
                title = f"{model}: scores" if name == "scores" else f"{model}: how far chosen is ahead"
                yield Histogram(title, x, tuple(told["edges"]), counts, note="Shares of each group.")


def _grid(found: Row) -> Table:
    columns = list(dict.fromkeys(c for axes in found["grid"].values() for cells in axes.values() for c in cells))
    rows = []
    for model, axes in found["grid"].items():
        for axis, cells in axes.items():
            told = [_percent(cells.get(column)) for column in columns]
            rows.append((f"{model}, {axis}", *told, f"{cells['average']['pairs']:,}" if "average" in cells else "·"))
    head = ("ranked right", *(RATINGS.get(column, column) for column in columns), "pairs")
    return Table(head, tuple(rows), "Accuracy by rating, with 95 % intervals")


def _percent(cell: Any) -> str:
    return f"{cell['accuracy']:.1%} ({cell['low']:.0%}–{cell['high']:.0%})" if cell else "·"


def _disagreement(found: Row) -> Dots:
    rows = tuple(
        (
            f"{axis}, {RATINGS.get(column, column)}"
            if len(found["disagreement"]["grid"]) > 1
            else RATINGS.get(column, column),
            (dot,),
        )
        for axis, cells in found["disagreement"]["grid"].items()
        for column, cell in cells.items()
        if column == "average" or len(found["disagreement"]["grid"]) == 1
        for dot in (Dot("differ", cell["share"], cell["low"], cell["high"], cell["pairs"]),)
    )
    return Dots("Pairs the two models order differently", "share of pairs", rows, share=True)


def _hardest(left: Left, models: Sequence[str]) -> list[Section]:
    """The pairs the model is most wrong about: what it does not know."""
    rows = [row for row in left.lines(artifacts.SCORES) if isinstance(row.get("scores"), Mapping)]
    left.taken.add(artifacts.SCORE_TABLE)
    if not rows or not models:
        return []
    ahead = {id(row): _ahead(row, models[0]) for row in rows}
    worst = sorted((row for row in rows if ahead[id(row)] < 0), key=lambda row: ahead[id(row)])[:3]
    shown = tuple(_pair(row, models[0]) for row in worst)
    note = f"The three of {len(rows):,} pairs whose rejected answer scores highest above the chosen one."
    return [Section("Pairs it gets most wrong", (Answers(shown, note),), folded=True)] if shown else []


def _ahead(row: Row, model: str) -> float:
    chosen, rejected = ((row["scores"].get(side) or {}).get(model) for side in ("chosen", "rejected"))
    return 0.0 if chosen is None or rejected is None else float(chosen - rejected)


def _pair(row: Row, model: str) -> Answered:
    sides = tuple(
        Side(side, cut(words(row.get(side))), f"score {said(row['scores'][side][model])}")
        for side in ("chosen", "rejected")
    )
    return Answered(prompt_of(row), sides)
