"""Commands about results: report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft import artifacts
from ft.cli.app import Runs, Sets, app, print_notice, read_recipe
from ft.console import out, talk
from ft.errors import fail
from ft.recipe import Recipe
from ft.recipe.find import is_recipe, recipe_file

if TYPE_CHECKING:
    from ft.report.run import Run

MOST_RUNS = 6  # as many as there are colours


@app.command("report")
def report_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|RUN …", help="recipes, or folders of results; none: all results, in a list"),
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="where it goes; runs/RECIPE/report.html")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="serve the page of one run here while it goes on")] = False,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="of --watch; 0: a free one")] = 0,
    set_: Sets = None,
    runs: Runs = Path("runs"),
) -> None:
    """One page about results, in whatever state they are; of several, what differs; of none, a list of all."""
    if watch:
        return _watch(paths or [], to, set_ or (), runs, port)
    from ft.report.page import comparison_page, index_page, report_page, write

    if not paths:
        if not runs.is_dir():
            raise fail(str(runs), "no such folder", "Name one with --runs, or a recipe.")
        out.print(str(write(index_page(runs), to or runs / artifacts.INDEX)))
        return None
    if len(paths) > MOST_RUNS:
        raise fail(paths[MOST_RUNS], f"a comparison has at most {MOST_RUNS} runs", "Name fewer.")
    reports = [_run_at(path, set_ or (), runs) for path in paths]
    for stage in (stage for run in reports for stage in run.stages):
        for warning in stage.settings_warning():
            print_notice(f"{stage.name}: {warning}")
    if len(reports) == 1:
        out.print(str(write(report_page(reports[0]), to or _place(reports[0], paths[0], runs))))
        return None
    names = "-and-".join(run.name for run in reports)[:100]
    out.print(str(write(comparison_page(reports), to or runs / f"{names}.html")))
    return None


def _watch(paths: Sequence[str], to: Path | None, sets: Sequence[str], runs: Path, port: int) -> None:
    """Serve the page of a run until Ctrl-C."""
    if len(paths) != 1:
        raise fail(
            "--watch", f"it follows one run, and {len(paths) or 'none'} is named", "Name a recipe or runs/RECIPE."
        )
    if to:
        raise fail("--to", "--watch writes no file", "Leave one of them out.")
    from ft.report.watch import WatchedPage, serve

    read_run = _reader(paths[0], sets, runs)
    run = read_run()  # a name that means nothing is refused here
    page = WatchedPage(run.name, run.stages[0].result.folder.parent, read_run)
    serve(page, port, lambda address: out.print(address))
    talk.print(f"no longer following {paths[0]}; `ft report {paths[0]}` writes the page as a file")


def _run_at(path: str, sets: Sequence[str], runs: Path) -> Run:
    return _reader(path, sets, runs)()


def _reader(path: str, sets: Sequence[str], runs: Path) -> Callable[[], Run]:
    """Finds a run's results as they are whenever it is called; a recipe is read once."""
    from ft.report.run import of_folder, of_plan
    from ft.results.store import plan

    if not is_recipe(path):
        return lambda: of_folder(Path(path))
    recipe = read_recipe(recipe_file(path), list(sets), runs)
    return lambda: of_plan(plan(recipe, runs), sets)


def _place(run: Run, path: str, runs: Path) -> Path:
    return (runs / run.name if is_recipe(path) else Path(path)) / artifacts.REPORT


@contextmanager
def write_report_after(recipe: Recipe, sets: Sequence[str], runs: Path) -> Iterator[None]:
    """The page of what a run has made, however it ends; an up-to-date page is not rewritten.

    Of a run that fails it is written in silence: the last words are what went wrong.
    """
    from ft.errors import UserError
    from ft.run.run import StageFailed

    try:
        yield
    except (StageFailed, UserError):
        _renew(recipe, sets, runs)
        raise
    if path := _renew(recipe, sets, runs):
        talk.print(f"report: {path}")


def _renew(recipe: Recipe, sets: Sequence[str], runs: Path) -> Path | None:
    """Where the page is; None where nothing is made, or it cannot be written."""
    from ft.report.run import is_current, of_plan
    from ft.results.store import plan

    path = runs / recipe.name / artifacts.REPORT
    run = of_plan(plan(recipe, runs), sets)
    if not run.is_begun:
        return None
    try:
        if not is_current(path, run):
            from ft.report.page import (  # takes longer than all else of a run with nothing to do
                index_page,
                report_page,
                write,
            )

            write(report_page(run), path)
            write(index_page(runs), runs / artifacts.INDEX)
    except Exception as error:  # whatever stops the page, results are there, and the run is none the worse
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        talk.print(f"{path}: no report: {why}", style="yellow")
        return None
    return path
