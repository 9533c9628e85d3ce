"""Several runs side by side: what differs in what was asked for, and in what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from ft.figures.charts import Chart, Dot, Dots, Lines
from ft.figures.numbers import format_number
from ft.report.facts import energy, hardware, seconds
from ft.report.gather import Report, StageView, gather_report
from ft.report.numbers import Number, duration, numbers_of
from ft.report.parts import Answers, Charts, PromptAnswers, Section, Table
from ft.report.run import Run
from ft.report.settings import UNKNOWN, format_setting

MOST_CHARTS = 8


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
    glance: Dots | None
    overview: Table
    facts: Table
    stages: tuple[ComparedStage, ...]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Runs in the order given; the first is what the others are measured against."""
    reports = tuple(LetteredRun(letter, gather_report(run)) for letter, run in zip(ascii_uppercase, runs, strict=False))
    names = dict.fromkeys(stage.result.name for one in reports for stage in one.report.stages)
    stages = tuple(_stage(name, reports) for name in names)
    return Comparison(reports, _glance(names, reports), _overview(names, reports), _facts(reports), stages)


def _of(one: LetteredRun, name: str) -> StageView | None:
    return next((stage for stage in one.report.stages if stage.result.name == name), None)


def _views(name: str, reports: Sequence[LetteredRun]) -> list[tuple[str, StageView]]:
    return [(one.letter, stage) for one in reports if (stage := _of(one, name)) is not None]


def _glance(names: Mapping[str, None], reports: Sequence[LetteredRun]) -> Dots | None:
    """The main number of each stage that measures a share, a dot a run."""
    rows = []
    for name in names:
        numbers = [
            (letter, stage.number) for letter, stage in _views(name, reports) if stage.number and stage.number.share
        ]
        if len(numbers) > 1:
            rows.append((name, tuple(Dot(letter, n.value, n.low, n.high) for letter, n in numbers)))
    return Dots("What was measured, with 95 % intervals", "share", tuple(rows), share=True) if rows else None


def _overview(names: Mapping[str, None], reports: Sequence[LetteredRun]) -> Table:
    def cell(stage: StageView | None) -> str:
        if stage is None:
            return "·"
        words = [stage.took or stage.state, *([f"{stage.number.label} {stage.number.text}"] if stage.number else [])]
        return ", ".join(words)

    rows = []
    for name in names:
        views = [stage.result for _, stage in _views(name, reports) if stage.result.state == "done"]
        shared = "the same result" if len(views) == len(reports) and len({r.fingerprint for r in views}) == 1 else ""
        rows.append((name, *(cell(_of(one, name)) for one in reports), shared))
    return Table(("stage", *(one.letter for one in reports), ""), tuple(rows), "Stages side by side", numeric=False)


def _facts(reports: Sequence[LetteredRun]) -> Table:
    def of(run: Run) -> tuple[str, ...]:
        took = sum(seconds(result) or 0.0 for result in run.results)
        seed = "·" if run.seed is None else str(run.seed)
        return (
            run.name,
            seed,
            run.repeat or "·",
            hardware(run.results) or "·",
            duration(took),
            energy(run.results) or "·",
        )

    columns = [of(one.report.run) for one in reports]
    labels = ("run", "seed", "command", "hardware", "time", "energy")
    rows = tuple((label, *(column[place] for column in columns)) for place, label in enumerate(labels))
    return Table(("", *(one.letter for one in reports)), rows, "The runs", numeric=False)


def _stage(name: str, reports: Sequence[LetteredRun]) -> ComparedStage:
    views = _views(name, reports)
    shared = len(views) == len(reports) and len({stage.result.fingerprint for _, stage in views}) == 1
    same = shared and all(stage.result.state == "done" for _, stage in views)
    parts: list[Section] = []
    if len(views) > 1 and not shared:
        tables = [table for table in (_settings(views), _numbers(views)) if table]
        parts += [Section("What differs", tuple(tables))] if tables else []
        charts = tuple(_charts(views))[:MOST_CHARTS]
        parts += [Section("Curves", (Charts(charts),))] if charts else []
        answers = _answers(views)
        parts += [Section("Answers", (answers,))] if answers else []
    return ComparedStage(name, views[0][1].result.kind, same, tuple(parts))


def _settings(views: Sequence[tuple[str, StageView]]) -> Table | None:
    """Everything that decides the results and is not the same in all."""
    keys = [dict(flat(stage.result.key)) for _, stage in views]
    names = dict.fromkeys(name for key in keys for name in key)
    rows = []
    for name in names:
        values = [key.get(name, UNKNOWN) for key in keys]
        if any(value != values[0] for value in values):
            rows.append((name, *(format_setting(value)[:80] for value in values)))
    head = ("setting", *(letter for letter, _ in views))
    return Table(head, tuple(rows), "Settings that differ", numeric=False) if rows else None


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('train.beta', 0.1) for every leaf of nested mappings and lists; stages above are named by their fingerprints."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], (Mapping, list)):
        for place, inner in enumerate(value, 1):
            yield from flat(inner, f"{prefix}[{place}]")
    else:
        yield prefix, value


def _numbers(views: Sequence[tuple[str, StageView]]) -> Table | None:
    """Every number of all runs, and by how much the others differ from the first."""
    by_run = [{n.name: n for n in numbers_of(stage.result.result.numbers)} for _, stage in views]
    names = dict.fromkeys(name for numbers in by_run for name in numbers)
    letters = [letter for letter, _ in views]
    comparable = [_measured_on(stage) == _measured_on(views[0][1]) for _, stage in views]
    rows = []
    for name in names:
        values = [numbers.get(name) for numbers in by_run]
        label = next(n.label for n in values if n)
        pairs = zip(values[1:], comparable[1:], strict=True)
        differences = [_difference(values[0], n) if same or (n and type(n.value) is int) else "·" for n, same in pairs]
        rows.append((label, *map(_cell, values), *differences))
    head = ("", *letters, *(f"{letter} − {letters[0]}" for letter in letters[1:]))
    note = "" if all(comparable) else "The rows they were measured on differ: losses and shares cannot be compared."
    return Table(head, tuple(rows), "Numbers, with 95 % intervals", note=note) if rows else None


def _measured_on(stage: StageView) -> tuple[Any, ...]:
    """What decides which rows the numbers of a stage are of, and how these became tokens."""
    key = stage.result.key
    model, train = key.get("model"), key.get("train", {})
    tokenizer = model.get("tokenizer") if isinstance(model, Mapping) else model
    names = ("data", "eval_data", "rows", "seed", "chat_template")
    return *(key.get(name) for name in names), train.get("max_length"), tokenizer


def _cell(number: Number | None) -> str:
    if number is None:
        return "·"
    return number.text + (f" ({number.interval})" if number.interval else "")


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


def _answers(views: Sequence[tuple[str, StageView]]) -> Answers | None:
    """Prompts that all runs show, with the newest answer of each."""
    by_run: list[dict[Any, PromptAnswers]] = []
    for _, stage in views:
        parts = [part for section in stage.sections for part in section.parts if isinstance(part, Answers)]
        by_run.append({row.prompt: row for part in parts[:1] for row in part.rows if row.prompt and row.sides})
    shared = [prompt for prompt in by_run[0] if all(prompt in rows for rows in by_run[1:])]
    letters = [letter for letter, _ in views]
    rows = tuple(
        PromptAnswers(
            p, tuple(replace(rows[p].sides[-1], name=letter) for letter, rows in zip(letters, by_run, strict=True))
        )
        for p in shared
    )
    return Answers(rows) if rows else None
