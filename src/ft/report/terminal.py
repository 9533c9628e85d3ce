"""What a run says at its end: the numbers of each stage, and a dialogue with what was made."""

from __future__ import annotations

from collections.abc import Sequence
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
from ft.recipe.kind import function_at
from ft.report.gather import safely
from ft.report.judges import judge_parts
from ft.report.numbers import rise_warning, summary
from ft.report.parts import Answers, PromptAnswers, Sentences
from ft.report.rounds import list_measures, version_table
from ft.report.run import of_plan
from ft.results.store import Plan, PlannedStage
from ft.training.trackers import places_to_look

STATES = {"unfinished": "resume"}  # what `ft run` would do, in the word that `ft plan` has always had
SHOWN_STATES = {"absent": "pending"}  # to people; programs read what they always have
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
        *(Column("rows", rank=1, right=True), Column("tokens in the loss", rank=2, right=True)),
        *(Column("global batch size", rank=4, right=True), Column("steps", rank=3, right=True)),
        *(Column("folder", rank=6), Column("why", wraps=True)),
    )
    cells = []
    colours = {"done": "green", "resume": "yellow", "absent": "", "not needed": "dim"}
    for row in plan_rows(planned_run):
        counts = [f"{row[key]:,}" if row[key] is not None else "·" for key in COUNTS]
        state = Text(SHOWN_STATES.get(row["state"], row["state"]), style=colours[row["state"]])
        cells.append([row["stage"], row["kind"], state, *counts, row["folder"], row["why"]])
    print_table(console, columns, cells)


def result_rows(stages: Sequence[PlannedStage]) -> list[dict[str, Any]]:
    """What finished stages left, as plain values."""
    return [{"stage": p.name, "folder": str(p.folder), "seconds": p.result.seconds, **p.result.numbers} for p in stages]


def show_results(stages: Sequence[PlannedStage], console: Console) -> None:
    """The numbers of each finished stage, then what the models that were made last answer, and where they stand.

    On a terminal the curve of a stage that trained stands behind its numbers; what is piped stays words and numbers.
    """
    finished = [planned for planned in stages if planned.done]
    for planned in finished:
        numbers = Text(summary(planned.result.numbers, planned.stage.kind.display.summary))
        curve = Text(_curve(planned), style="cyan") if console.is_terminal else Text("")
        console.print(Text(f"{planned.name}:", style="bold"), numbers, *([curve] if curve else []))
        if warning := rise_warning(planned.result.numbers):
            console.print(Text(f"  {warning}", style="yellow"))
    models = _last_models(finished)
    evaluated = [planned for planned in models if any(p.stage.init == planned.name for p in finished)] or models
    for planned in evaluated[-1:]:
        _show_answers(planned, finished, console)
    console.print()
    for planned in models:
        console.print(f"{planned.stage.kind.leaves_words.removeprefix('a ')} {planned.name}: {planned.folder}")
    for place in dict.fromkeys(place for planned in finished for place in places_to_look(planned.result)):
        console.print(f"curves: {place}")
    for planned in [planned for planned in evaluated if "model" in planned.stage.kind.leaves][-1:]:
        console.print(f"talk to {planned.name}: ft chat {planned.folder}")


def _last_models(finished: Sequence[PlannedStage]) -> list[PlannedStage]:
    """The models and reward models that no other of these was made from."""
    weights = [planned for planned in finished if planned.stage.kind.leaves_weights]
    parents = {name for planned in weights for name in planned.stage.parents}
    return [planned for planned in weights if planned.name not in parents]


def _show_answers(model: PlannedStage, finished: Sequence[PlannedStage], console: Console) -> None:
    """What the model says by the first of its evaluations that shows it: a dialogue, else answers beside those of the
    model before."""
    evaluations = [p for p in finished if p.stage.init == model.name and "metrics" in p.stage.kind.leaves]
    for planned in evaluations:
        if messages := _dialogue(planned):
            console.print(f"\n{model.name} says (from {planned.name}):")
            return _show_turns(messages, console)
    for planned in evaluations:
        if rows := _answers(planned):
            baseline = next((planned.stage.inputs[name] for name in BASELINES if name in planned.stage.inputs), "")
            names = f"{model.name}, before it {baseline}" if baseline else model.name
            console.print(f"\nanswers of {names} (from {planned.name}):")
            turns = [turn for row in rows[:ANSWERS_SHOWN] for turn in _turns(row)]
            return _show_turns(turns, console)
    return None


BASELINES = ("baseline", "before", "other")
"""The inputs that name the model before."""
ANSWERS_SHOWN = 3


def _answers(planned: PlannedStage) -> Sequence[PromptAnswers]:
    """What its evaluation shows in the report, in front."""
    files = ResultFiles(planned.folder, planned.stage.blocks)
    makers = [function_at(path) for path in planned.stage.kind.display.sections]
    sections = [section for make in makers for section in safely(files, "answers", lambda make=make: make(files)) or []]  # type: ignore[misc]
    parts = [part for section in sections if not section.folded for part in section.parts]
    return next((part.rows for part in parts if isinstance(part, Answers)), ())


def _turns(row: PromptAnswers) -> list[tuple[str, str]]:
    """A prompt and its answers, each with the name of who says it and how it was scored."""
    prompt = [(message.role, message.text) for message in row.prompt] or [("", row.note)]
    return [
        *prompt,
        *((side.name, f"{side.text} [{side.verdict}]" if side.verdict else side.text) for side in row.sides),
    ]


def _show_turns(turns: Sequence[tuple[str, str]], console: Console) -> None:
    width = max(len(name) for name, _ in turns)
    for name, text in turns:
        colour = "cyan" if name in ("user", "system", "") else "dim" if name == "before" else "green"
        console.print(Text(f"{name:>{width}}: " if name else " " * (width + 2), style=colour), Text(text), sep="")


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
        for part in judge_parts(rounds, run):
            for line in part.lines if isinstance(part, Sentences) else ():
                console.print(Text(line, style="yellow"))


def _dialogue(planned: PlannedStage) -> list[tuple[str, str]]:
    """(role, text) of the stage's sample dialogue; nothing of what is no dialogue."""
    messages = read_json(planned.folder / artifacts.DIALOGUE)
    mappings = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    return [(str(one.get("role")), text_of(one)) for one in mappings]


def _curve(planned: PlannedStage) -> str:
    """How its loss or reward went, as the report draws it."""
    return sparkline(curves(ResultFiles(planned.folder, planned.stage.blocks)).values)
