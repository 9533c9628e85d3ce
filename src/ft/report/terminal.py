"""What a run says at its end: the numbers of each stage, and a dialogue with what was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ft import artifacts
from ft.columns import Column, print_table
from ft.figures.result_files import ResultFiles, text_of
from ft.figures.text import sparkline
from ft.figures.training import curves
from ft.files import read_json
from ft.report.numbers import number_words
from ft.report.rounds import list_measures, version_table
from ft.report.run import of_plan
from ft.results.store import Plan, PlannedStage

STATES = {"unfinished": "resume"}  # what `ft run` would do, in the word that `ft plan` has always had
COUNTS = ("rows", "trained_tokens", "batch", "steps")


def plan_rows(planned_run: Plan) -> list[dict[str, Any]]:
    """The plan as plain values, one dict a stage: for the table and for --json."""
    return [
        {
            "stage": p.name,
            "kind": p.stage.kind_name,
            "state": STATES.get(p.state, p.state),
            "rows": p.prepared["train"]["rows"] if p.prepared else None,
            "trained_tokens": p.prepared["train"]["trained_tokens"] if p.prepared else None,
            "batch": p.batch,
            "steps": p.result.numbers.get("steps") or p.steps,
            "folder": str(p.folder),
            "why": p.why,
        }
        for p in planned_run.stages
    ] + [
        {"stage": name, "kind": "", "state": "not needed", **dict.fromkeys(COUNTS), "folder": "", "why": reason}
        for name, reason in planned_run.not_needed.items()
    ]


def show_plan(planned_run: Plan, console: Console) -> None:
    columns = (
        *(Column("stage"), Column("kind", rank=5), Column("state")),
        *(Column("rows", rank=1, right=True), Column("trained tokens", rank=2, right=True)),
        *(Column("rows a step", rank=4, right=True), Column("steps", rank=3, right=True)),
        *(Column("folder", rank=6), Column("would run because", wraps=True)),
    )
    cells = []
    colours = {"done": "green", "resume": "yellow", "absent": "", "not needed": "dim"}
    for row in plan_rows(planned_run):
        counts = [f"{row[key]:,}" if row[key] is not None else "·" for key in COUNTS]
        state = Text(row["state"], style=colours[row["state"]])
        cells.append([row["stage"], row["kind"], state, *counts, row["folder"], row["why"]])
    print_table(console, columns, cells)


def result_rows(stages: Sequence[PlannedStage]) -> list[dict[str, Any]]:
    """What finished stages left, as plain values."""
    return [{"stage": p.name, "folder": str(p.folder), "seconds": p.result.seconds, **_numbers(p)} for p in stages]


def show_results(stages: Sequence[PlannedStage], console: Console) -> None:
    """Numbers of each finished stage, then the sample dialogue of the last evaluation that made one.

    On a terminal the curve of a stage that trained stands behind its numbers; what is piped stays words and numbers.
    """
    for planned in stages:
        if planned.done:
            numbers = Text(", ".join(number_words(_numbers(planned))))
            curve = Text(_curve(planned), style="cyan") if console.is_terminal else Text("")
            console.print(Text(planned.name, style="bold"), numbers, *([curve] if curve else []))
    model = next((p for p in reversed(stages) if p.done and "model" in p.stage.kind.leaves), None)
    dialogues = [messages for p in stages if (messages := _dialogue(p))]
    if dialogues:
        console.print()
        for role, text in dialogues[-1]:
            colour = "cyan" if role == "user" else "green"
            console.print(Text(f"{role:>9}: ", style=colour), Text(text), sep="")
    if model:
        console.print(f"\nmodel: {model.folder}\ntalk to it: ft chat {model.folder}")


def show_rounds(plan: Plan, console: Console) -> None:
    """A table of versions for every `rounds:` of the recipe that has measured something."""
    run = of_plan(plan)
    for rounds in plan.recipe.rounds:
        measures = list_measures(rounds, run)
        if not measures:
            continue
        versions = version_table(measures)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column, name in enumerate(versions.head):
            table.add_column(Text(name), justify="right" if column else "left")
        for row in versions.rows:
            table.add_row(*map(Text, row))
        console.print()
        console.print(table)


def _dialogue(planned: PlannedStage) -> list[tuple[str, str]]:
    """(role, text) of the stage's sample dialogue; nothing of what is no dialogue."""
    messages = read_json(planned.folder / artifacts.DIALOGUE)
    mappings = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return [(str(one.get("role")), text_of(one)) for one in mappings]


def _curve(planned: PlannedStage) -> str:
    """How its loss or reward went, as the report draws it."""
    return sparkline(curves(ResultFiles(planned.folder, planned.stage.blocks)).values)


def _numbers(planned: PlannedStage) -> Mapping[str, Any]:
    found: Mapping[str, Any] = planned.result.numbers
    return found
