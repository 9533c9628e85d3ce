"""What each round of a recipe has measured, side by side: for the page, and for the end of `ft run`."""

from __future__ import annotations

from collections.abc import Sequence

from ft.figures.charts import Lines, Point, Series
from ft.recipe.rounds import Rounds
from ft.report.numbers import Number, main_number, numbers_of
from ft.report.parts import Charts, Part, Section, Sentences, Table
from ft.report.run import ReportedStage, Run

BESIDE = ("kl",)
"""Numbers that stand beside a stage's main one: what the gain has cost."""

Measure = tuple[str, dict[int, Number]]
"""(what is measured, round → the number)"""


def rounds_sections(run: Run) -> list[Section]:
    """A table of versions and their curves, for every `rounds:` that has measured something."""
    sections = []
    for rounds in run.rounds:
        measures = list_measures(rounds, run)
        if measures:
            parts: list[Part] = [version_table(measures)]
            if charts := _charts(measures):
                parts.append(Charts(charts))
            reasons = dict.fromkeys(reason for name, reason in run.not_needed.items() if rounds.number(name))
            if reasons:
                parts.append(Sentences(tuple(f"The later rounds are not needed: {reason}." for reason in reasons)))
            sections.append(Section(f"Rounds of {', '.join(rounds.names)}", tuple(parts)))
    return sections


def list_measures(rounds: Rounds, run: Run) -> list[Measure]:
    """What the stages of a round measure, in order, with the value of each round that has measured it."""
    measures: dict[str, dict[int, Number]] = {}
    for name in rounds.names:
        for number in range(1, rounds.times + 1):
            stage = run.get(rounds.stage(name, number))
            for value in _main_numbers(stage) if stage and stage.result.done else ():
                measures.setdefault(f"{name}: {value.label}", {})[number] = value
    return list(measures.items())


def _main_numbers(stage: ReportedStage) -> list[Number]:
    numbers = numbers_of(stage.result.numbers)
    main = main_number(stage.display.headline, numbers)
    beside = [number for number in numbers if number.name in BESIDE and number is not main]
    return [*([main] if main else []), *beside]


def version_table(measures: Sequence[Measure]) -> Table:
    """A row for each round, and one for where the first began, with 95 % intervals."""
    made = sorted({number for _, values in measures for number in values})
    start = [_start(values) for _, values in measures]
    rows = [("start", *start)] if any(text != "·" for text in start) else []
    for number in made:
        rows.append((f"round {number}", *(_cell(values.get(number)) for _, values in measures)))
    note = "Start is what a stage compares itself with: its baseline, or its own first measurement in round 1."
    return Table(("version", *(name for name, _ in measures)), tuple(rows), note=note if rows[0][0] == "start" else "")


def _start(values: dict[int, Number]) -> str:
    """What the first round compares itself with, where the later ones compare themselves with the same."""
    was = [number.was for number in values.values()]
    first = values.get(1)
    same = first is not None and first.was is not None and len(set(was)) == 1
    return _was_text(first) if same and first else "·"


def _was_text(number: Number) -> str:
    return Number(number.name, number.was or 0.0, None, number.low, number.high).text


def _cell(number: Number | None) -> str:
    if number is None:
        return "·"
    return f"{number.text} ({number.interval})" if number.interval else number.text


def _charts(measures: Sequence[Measure]) -> tuple[Lines, ...]:
    """One chart of all shares, and one for each other measure, whose units differ; none of a single round."""
    shares = [(name, values) for name, values in measures if all(number.share for number in values.values())]
    others = [measure for measure in measures if measure not in shares]
    charts = [_chart("Shares by round", shares, share=True)] if shares else []
    charts += [_chart("By round", [measure], share=False) for measure in others]
    return tuple(chart for chart in charts if any(len(series.points) > 1 for series in chart.series))


def _chart(title: str, measures: Sequence[Measure], share: bool) -> Lines:
    series = []
    for name, values in measures:
        points = [Point(number, value.value, value.low, value.high) for number, value in sorted(values.items())]
        first = values.get(1)
        if first and first.was is not None and _start(values) != "·":
            points.insert(0, Point(0, first.was))
        series.append(Series(name, tuple(points)))
    label = "share" if share else next(iter(measures[0][1].values())).label
    return Lines(title, "round", label, tuple(series), share=share)
