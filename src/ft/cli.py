"""The command line. stdout carries the answer, stderr the talk; bad input ends with exit code 2 and no traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft.errors import Problems
from ft.recipe import Recipe, Verdicts, read
from ft.stages import STAGES

app = typer.Typer(
    help="Fine-tuning recipes: one YAML file, a chain of stages, one folder a result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
talk = Console(stderr=True, highlight=False, soft_wrap=True)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="the recipe's YAML file")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.BLOCK.KEY=VALUE", help="override one key")]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="where results are")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def _read(recipe: Path, sets: list[str] | None, runs: Path) -> Recipe:
    found = read(recipe, STAGES, sets or (), Verdicts(runs / ".cache" / "checked.json"))
    for notice in found.notices:
        talk.print(notice, style="yellow", markup=False)
    return found


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, default=str, ensure_ascii=False))


@app.command("plan")
def plan_command(
    recipe: RecipeFile,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    prepare: Annotated[bool, typer.Option("--prepare", help="render and tokenise rows first, to know counts")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="print what differs from the recipe it extends")] = False,
    as_json: AsJson = False,
) -> None:
    """What is made, what would run, and why."""
    from ft.report import plan_rows, show_plan
    from ft.runs import plan

    if diff:
        return _diff(recipe, as_json)
    there = plan(_read(recipe, set_, runs), runs)
    if prepare:
        from ft.run import prepare_rows

        for planned in there.stages:
            if all(there.stage(name).done for name in planned.stage.parents):
                prepare_rows(there, planned)
        there = plan(there.recipe, runs)
    _print_json(plan_rows(there)) if as_json else show_plan(there, out)
    return None


def _diff(recipe: Path, as_json: bool) -> None:
    from ft.recipe.merge import changes

    problems = Problems()
    found = changes(recipe, problems)
    problems.raise_any()
    if as_json:
        _print_json([{"key": key, "there": there, "here": here} for key, there, here in found])
        return
    for key, there, here in found:
        out.print(f"{key}: {there or '(absent)'} → {here or '(absent)'}", markup=False)


@app.command("run")
def run_command(
    recipe: RecipeFile,
    to: Annotated[str | None, typer.Option(metavar="STAGE", help="as far as STAGE, with its evaluations")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="this stage alone")] = None,
    force: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="make STAGE anew, and what needs it")] = None,
    launch: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="an accelerate config, for several GPUs")
    ] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Make what is not made yet. Interrupted? The same command continues."""
    from ft.report import result_rows, show_results
    from ft.run import chosen, run

    there = run(_read(recipe, set_, runs), runs, to=to, only=only, force=force or (), launch=launch)
    stages = chosen(there, to, only)
    _print_json(result_rows(stages)) if as_json else show_results(stages, out)


@app.command("stage", hidden=True)
def stage_command(job: Path) -> None:
    """One stage's own process, started by `ft run`."""
    from ft.run import make_stage

    make_stage(job)
