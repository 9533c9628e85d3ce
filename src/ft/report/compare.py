"""Several runs side by side: what differs in what was asked for, and in what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from ft.figures.charts import Chart, Dot, Dots, Lines
from ft.figures.numbers import format_number
from ft.report.facts import energy, hardware, seconds
from ft.report.gather import Report, StageView, gather_report
from ft.report.numbers import Number, duration, main_numbers, numbers_of
from ft.report.parts import Answers, Charts, Section, Table
from ft.report.run import Run
from ft.report.settings import settings_that_differ
from ft.report.shared_answers import shared_answers

MOST_CHARTS = 8
OTHER_ROWS = "·: the rows they were measured on differ, so losses and shares cannot be compared."


@dataclass(frozen=True)
class LetteredRun:
    """A run and the letter it goes by."""

    letter: str
    report: Report


@dataclass(frozen=True)
class ComparedStage:
    name: str
    kind: str
    same: bool  # every run has this very result, made
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Comparison:
    runs: tuple[LetteredRun, ...]
    numbers: Table | None
    glance: Dots | None
    overview: Table
    facts: Table
    answers: Answers | None
    stages: tuple[ComparedStage, ...]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Runs in the order given; the first is what the others are measured against."""
    reports = tuple(LetteredRun(letter, gather_report(run)) for letter, run in zip(ascii_uppercase, runs, strict=False))
    names = dict.fromkeys(stage.result.name for one in reports for stage in one.report.stages)
    stages = tuple(_stage(name, reports) for name in names)
    return Comparison(
        runs=reports,
        numbers=_main_numbers(names, reports),
        glance=_glance(names, reports),
        overview=_overview(names, reports),
        facts=_facts(reports),
        answers=shared_answers({one.letter: one.report.run for one in reports}),
        stages=stages,
    )


def _of(one: LetteredRun, name: str) -> StageView | None:
    return next((stage for stage in one.report.stages if stage.result.name == name), None)


def _views(name: str, reports: Sequence[LetteredRun]) -> list[tuple[str, StageView]]:
    return [(one.letter, stage) for one in reports if (stage := _of(one, name)) is not None]


def _main_numbers(names: Iterable[str], reports: Sequence[LetteredRun]) -> Table | None:
    """The numbers that a run ends with, of every stage that several runs have made, with their differences."""
    letters, rows = [one.letter for one in reports], list[tuple[str, ...]]()
    for name in names:
        views = [_of(one, name) for one in reports]
        if sum(stage is not None and stage.result.state == "done" for stage in views) > 1:
            rows += [(f"{name}: {label}", *cells) for label, *cells in _number_rows(views, _main_numbers_of, _text)]
    if not rows:
        return None
    note = OTHER_ROWS if any(cell == "·" for row in rows for cell in row[1 + len(letters) :]) else ""
    return Table(("", *_columns(letters)), tuple(rows), "Main numbers", note=note)


def _main_numbers_of(stage: StageView) -> list[Number]:
    return main_numbers(stage.result.result.numbers, stage.result.display.summary)


def _columns(letters: Sequence[str]) -> list[str]:
    return [*letters, *(f"{letter} − {letters[0]}" for letter in letters[1:])]


def _glance(names: Iterable[str], reports: Sequence[LetteredRun]) -> Dots | None:
    """The main number of each stage that measures a share, a dot a run."""
    rows = []
    for name in names:
        numbers = [
            (letter, stage.number) for letter, stage in _views(name, reports) if stage.number and stage.number.share
        ]
        if len(numbers) > 1:
            rows.append((name, tuple(Dot(letter, n.value, n.low, n.high) for letter, n in numbers)))
    return Dots("What was measured, with 95 % intervals", "share", tuple(rows), share=True) if rows else None


def _overview(names: Iterable[str], reports: Sequence[LetteredRun]) -> Table:
    rows = []
    for name in names:
        views = [stage.result for _, stage in _views(name, reports) if stage.result.state == "done"]
        shared = "the same result" if len(views) == len(reports) and len({r.fingerprint for r in views}) == 1 else ""
        stages = [_of(one, name) for one in reports]
        rows.append((name, *(stage.took or stage.state if stage else "·" for stage in stages), shared))
    return Table(("stage", *(one.letter for one in reports), ""), tuple(rows), "Stages and their time", numeric=False)


def _facts(reports: Sequence[LetteredRun]) -> Table:
    def of(run: Run) -> tuple[str, ...]:
        took = sum(seconds(result) or 0.0 for result in run.results)
        seeds = (
            [run.seed]
            if run.seed is not None
            else [result.key["seed"] for result in run.results if result.key.get("seed")]
        )
        return (
            run.title,
            ", ".join(map(str, sorted(set(seeds)))) or "·",
            run.repeat or "·",
            hardware(run.results) or "·",
            duration(took),
            energy(run.results) or "·",
        )

    columns = [of(one.report.run) for one in reports]
    labels = ("run", "seed", "command", "hardware", "time", "energy")
    rows = tuple((label, *(column[place] for column in columns)) for place, label in enumerate(labels))
    known = tuple(row for row in rows if set(row[1:]) != {"·"})
    return Table(("", *(one.letter for one in reports)), known, "The runs", numeric=False)


def _stage(name: str, reports: Sequence[LetteredRun]) -> ComparedStage:
    views = _views(name, reports)
    shared = len(views) == len(reports) and len({stage.result.fingerprint for _, stage in views}) == 1
    same = shared and all(stage.result.state == "done" for _, stage in views)
    parts: list[Section] = []
    if len(views) > 1 and not shared:
        settings, numbers = settings_that_differ([(letter, stage.result) for letter, stage in views]), _numbers(views)
        parts += [Section("What differs", (settings,))] if settings else []
        charts = tuple(_charts(views))[:MOST_CHARTS]
        parts += [Section("Curves", (Charts(charts),))] if charts else []
        parts += [Section("All numbers", (numbers,), folded=True)] if numbers else []
    return ComparedStage(name, views[0][1].result.kind, same, tuple(parts))


def _numbers(views: Sequence[tuple[str, StageView]]) -> Table | None:
    """Every number of all runs, and by how much the others differ from the first."""
    stages = [stage for _, stage in views]
    rows = tuple(_number_rows(stages, lambda stage: numbers_of(stage.result.result.numbers), _with_interval))
    note = "" if _comparable(stages) else OTHER_ROWS
    head = ("", *_columns([letter for letter, _ in views]))
    return Table(head, rows, "Numbers, with 95 % intervals", note=note) if rows else None


def _number_rows(
    stages: Sequence[StageView | None],
    choose: Callable[[StageView], Sequence[Number]],
    show: Callable[[Number | None], str],
) -> Iterator[tuple[str, ...]]:
    """(label, number of each run, difference of each but the first from the first), a row a number."""
    by_run = [{n.name: n for n in choose(stage)} if stage else {} for stage in stages]
    first = stages[0]
    alike = [bool(first and stage and _measured_on(stage) == _measured_on(first)) for stage in stages[1:]]
    for name in dict.fromkeys(name for numbers in by_run for name in numbers):
        values = [numbers.get(name) for numbers in by_run]
        label = next(number.label for number in values if number)
        pairs = zip(values[1:], alike, strict=True)
        differences = [_difference(values[0], n) if same or (n and type(n.value) is int) else "·" for n, same in pairs]
        yield label, *map(show, values), *differences


def _comparable(stages: Sequence[StageView]) -> bool:
    return all(_measured_on(stage) == _measured_on(stages[0]) for stage in stages)


def _measured_on(stage: StageView) -> tuple[Any, ...]:
    """What decides which rows the numbers of a stage are of, and how these became tokens."""
    key = stage.result.key
    model, train = key.get("model"), key.get("train", {})
    tokenizer = model.get("tokenizer") if isinstance(model, Mapping) else model
    names = ("data", "eval_data", "rows", "seed", "chat_template")
    return *(key.get(name) for name in names), train.get("max_length"), tokenizer


def _text(number: Number | None) -> str:
    """Without an interval, which would not fit a phone."""
    return number.text if number else "·"


def _with_interval(number: Number | None) -> str:
    return _text(number) + (f" ({number.interval})" if number and number.interval else "")


def _difference(one: Number | None, other: Number | None) -> str:
    if one is None or other is None or isinstance(one.value, bool) or isinstance(other.value, bool):
        return "·"
    by = other.value - one.value
    sign = "−" if by < 0 else "+" if by > 0 else "±"
    return f"{sign}{abs(by) * 100:.1f} points" if one.share else sign + format_number(abs(by))


def _charts(views: Sequence[tuple[str, StageView]]) -> Iterator[Chart]:
    """Charts of the same title laid over each other: lines of what was held out or sampled, dots of what is now."""
    by_title: dict[str, list[tuple[str, Chart]]] = {}
    for letter, stage in views:
        for section in stage.sections:
            for part in section.parts:
                for chart in part.charts if isinstance(part, Charts) and not section.folded else ():
                    by_title.setdefault(chart.title, []).append((letter, chart))
    for charts in by_title.values():
        lines = [(letter, chart) for letter, chart in charts if isinstance(chart, Lines)]
        dots = [(letter, chart) for letter, chart in charts if isinstance(chart, Dots)]
        if len(lines) > 1:
            yield _overlay(lines)
        elif len(dots) > 1:
            yield _beside(dots)


def _overlay(charts: Sequence[tuple[str, Lines]]) -> Lines:
    series = []
    for letter, chart in charts:
        bold = [one for one in chart.series if not one.thin and one.name != "before"]
        series += [replace(one, name=f"{letter} {one.name}".strip()) for one in bold]
    return replace(charts[0][1], series=tuple(series), best=None, epochs=0.0, note="")


def _beside(charts: Sequence[tuple[str, Dots]]) -> Dots:
    rows: dict[str, list[Dot]] = {}
    for letter, chart in charts:
        for label, dots in chart.rows_of_dots:
            now = [dot for dot in dots if dot.series != "before"]
            rows.setdefault(label, []).extend(replace(dot, series=_series_name(letter, dot.series)) for dot in now)
    return replace(charts[0][1], rows_of_dots=tuple((label, tuple(dots)) for label, dots in rows.items()))


def _series_name(letter: str, name: str) -> str:
    return letter if name in ("after", "score") else f"{letter} {name}"
