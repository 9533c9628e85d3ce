"""Rounds of a recipe on the page: what each has measured, side by side, and all of them as one in the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ft.figures.charts import Lines, Point, Series
from ft.recipe.rounds import Rounds
from ft.report.judges import judge_parts
from ft.report.numbers import LOSS, Number, main_number, numbers_of
from ft.report.parts import Charts, Part, Section, Sentences, Table
from ft.report.run import ReportedStage, Run
from ft.report.versions import Version, measured_alike

BESIDE = ("kl",)
"""Numbers that stand beside a stage's main one: what the gain has cost."""


@dataclass(frozen=True)
class Measure:
    """What is measured, and the number of each version that has been."""

    name: str
    numbers: Mapping[Version, Number]

    @property
    def start(self) -> Number | None:
        """What the first version compares itself with, where all compare themselves with the same."""
        before = {(number.was, number.was_low, number.was_high) for number in self.numbers.values()}
        ((was, low, high),) = before if len(before) == 1 else [(None, None, None)]
        first = next(iter(self.numbers.values()))
        return Number(first.name, was, None, low, high) if was is not None else None

    @property
    def share(self) -> bool:
        return all(number.share for number in self.numbers.values())


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
            parts += judge_parts(rounds, run)
            sections.append(Section(f"Rounds of {', '.join(rounds.names)}", tuple(parts)))
    return sections


def list_measures(rounds: Rounds, run: Run) -> list[Measure]:
    """What the stages of a round measure, in order, with the number of each version that has been measured so."""
    measures: dict[str, dict[Version, Number]] = {}
    for name in rounds.names:
        for version, stage in measured_alike(rounds, name, run):
            for number in _main_numbers(stage) if stage.result.done else ():
                measures.setdefault(f"{name}: {number.label}", {})[version] = number
    return [Measure(name, numbers) for name, numbers in measures.items()]


def _main_numbers(stage: ReportedStage) -> list[Number]:
    numbers = numbers_of(stage.result.numbers)
    main = main_number(stage.display.headline, numbers)
    beside = [number for number in numbers if number.name in BESIDE and number is not main]
    if main is None or main.name == LOSS:  # the loss of single batches says nothing about a version
        return beside
    return [main, *beside]


def list_versions(measures: Sequence[Measure]) -> list[Version]:
    """In the order of the recipe."""
    return list(dict.fromkeys(version for measure in measures for version in measure.numbers))


def version_table(measures: Sequence[Measure]) -> Table:
    """A row for each version, and one for where the first began, with 95 % intervals."""
    start = [_cell(measure.start) for measure in measures]
    rows = [("start", *start)] if any(text != MISSING for text in start) else []
    for version in list_versions(measures):
        rows.append((version.name, *(_cell(measure.numbers.get(version)) for measure in measures)))
    note = "Start is what a stage compares itself with: its baseline, or its own first measurement in round 1."
    return Table(("version", *(one.name for one in measures)), tuple(rows), note=note if rows[0][0] == "start" else "")


MISSING = "·"


def _cell(number: Number | None) -> str:
    if number is None:
        return MISSING
    return f"{number.text} ({number.interval})" if number.interval else number.text


def _charts(measures: Sequence[Measure]) -> tuple[Lines, ...]:
    """One chart of all shares, and one for each other measure, whose units differ; none of a single version."""
    versions = list_versions(measures)
    shares = [measure for measure in measures if measure.share]
    charts = [_chart("Shares by version", shares, versions, share=True)] if shares else []
    charts += [_chart("By version", [measure], versions, share=False) for measure in measures if measure not in shares]
    return tuple(chart for chart in charts if any(len(series.points) > 1 for series in chart.series))


def _chart(title: str, measures: Sequence[Measure], versions: Sequence[Version], share: bool) -> Lines:
    series = []
    for measure in measures:
        points = [_point(versions.index(version) + 1, number) for version, number in measure.numbers.items()]
        if measure.start:
            points.insert(0, _point(0, measure.start))
        series.append(Series(measure.name, tuple(points)))
    label = "share" if share else next(iter(measures[0].numbers.values())).label
    places = ("start", *(version.place for version in versions))
    return Lines(title, "round", label, tuple(series), share=share, places=places)


def _point(place: int, number: Number) -> Point:
    return Point(place, number.value, number.low, number.high)


@dataclass(frozen=True)
class ChainRow:
    """A row of the chain: a stage, or the same stage of all rounds, for which the newest that is begun stands.

    stage   with its name and its links as the recipe writes them in rounds, without numbers
    newest  the name of the stage whose result it shows
    rounds  'round 3 of 4'; nothing for a stage that is made once
    """

    stage: ReportedStage
    newest: str
    rounds: str = ""


def fold_rounds(run: Run) -> list[ChainRow]:
    """The stages with every `rounds:` once. Links to the round before would point up, and are left out."""
    rows: dict[str, ChainRow] = {}
    for stage in run.stages:
        name = _name_in_rounds(stage.name, run)
        links = tuple((_name_in_rounds(parent, run), role) for parent, role in stage.links)
        before = rows.get(name)
        newest = before if before and stage.state == "absent" else _row(stage, run)
        links = tuple(dict.fromkeys((*(before.stage.links if before else ()), *links)))
        rows[name] = replace(newest, stage=replace(newest.stage, name=name, links=links))
    places = {name: place for place, name in enumerate(rows)}
    return [replace(row, stage=_without_links_up(row.stage, places)) for row in rows.values()]


def _row(stage: ReportedStage, run: Run) -> ChainRow:
    rounds = next((one for one in run.rounds if one.number(stage.name)), None)
    return ChainRow(stage, stage.name, f"round {rounds.number(stage.name)} of {rounds.times}" if rounds else "")


def _name_in_rounds(stage: str, run: Run) -> str:
    return stage.rpartition("-")[0] if any(rounds.number(stage) for rounds in run.rounds) else stage


def _without_links_up(stage: ReportedStage, places: Mapping[str, int]) -> ReportedStage:
    down = [(name, role) for name, role in stage.links if places.get(name, len(places)) < places[stage.name]]
    return replace(stage, links=tuple(down))
