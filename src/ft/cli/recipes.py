"""Commands about a recipe: plan, run, show, stats, new."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ft.cli.app import (
    AsJson,
    EngineWords,
    LaunchFile,
    RecipeFile,
    Runs,
    Sets,
    app,
    print_json,
    print_notice,
    read_launch_file,
    read_recipe,
)
from ft.cli.reports import write_report_after
from ft.console import out, talk
from ft.errors import Problems, fail
from ft.progress import Progress
from ft.recipe.find import bundled_recipes, is_recipe, recipe_file, recipe_summary

if TYPE_CHECKING:
    from ft.results.store import Plan
    from ft.run.accelerate_config import Launch


@app.command("plan")
def plan_command(
    recipe: RecipeFile,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    prepare: Annotated[bool, typer.Option("--prepare", help="render and tokenise rows first, to know counts")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="print what differs from the recipe it extends")] = False,
    gpu: Annotated[str | None, typer.Option(metavar="GPU|GIB", help="will it fit? 4090, a10g, h100, …, or 24")] = None,
    gpus: Annotated[int | None, typer.Option(metavar="N", help="with --gpu: how many of them")] = None,
    launch: LaunchFile = None,
    engine: EngineWords = None,
    probe: Annotated[bool, typer.Option("--probe", help="measure a worst-case step per stage on this GPU")] = False,
    as_json: AsJson = False,
) -> None:
    """What is done, what is pending, and why; with --gpu, whether it fits."""
    from ft.report.terminal import plan_rows, show_plan
    from ft.results.store import plan
    from ft.run.accelerate_config import objections
    from ft.run.engine_plan import describe_engine
    from ft.run.preflight import tracker_problems

    if diff:
        return _diff(recipe, set_, as_json)
    if gpu is None:
        _only_for("a plan with --gpu", {"--gpus": gpus})
    way = read_launch_file(launch, runs).on_gpus(gpus)
    planned_run = plan(read_recipe(recipe, set_, runs, engine), runs, way.processes)
    for notice in planned_run.notices:
        print_notice(notice)
    objections([p.stage for p in planned_run.stages], way).raise_any()
    for problem in tracker_problems(p.stage for p in planned_run.stages if not p.done):
        print_notice(str(problem))
    if prepare:
        from ft.run.rows import prepare_rows

        for planned in planned_run.stages:
            if planned_run.preparable(planned):
                prepare_rows(planned_run, planned)
        planned_run = plan(planned_run.recipe, runs, way.processes)
    if probe:
        return _probe(planned_run, gpu, as_json)
    if gpu is not None:
        return _fit(planned_run, gpu, way, as_json)
    print_json(plan_rows(planned_run)) if as_json else show_plan(planned_run, out)
    for line in describe_engine(planned_run):
        talk.print(line)
    return None


def _fit(planned_run: Plan, gpu: str, way: Launch, as_json: bool) -> None:
    from ft.fit.gpus import gpu as named
    from ft.fit.sharding import sharding
    from ft.fit.table import fit_plan, show, values

    on, shared = named(gpu), sharding(way)
    with talk.status("counting parameters and bytes"):
        fits = fit_plan(planned_run, on, shared)
    print_json(values(fits)) if as_json else show(fits, out)


def _probe(planned_run: Plan, gpu: str | None, as_json: bool) -> None:
    from ft.fit.probe import probe_stages, show

    probes = probe_stages(planned_run, gpu)
    print_json(probes) if as_json else show(probes, out)


def _diff(recipe: Path, sets: list[str] | None, as_json: bool) -> None:
    from ft.recipe.merge import changes

    problems = Problems()
    lines = changes(recipe, sets or (), problems)
    problems.raise_any()
    if as_json:
        print_json([{"key": key, "there": parent_value, "here": value} for key, parent_value, value in lines])
        return
    for key, parent_value, value in lines:
        out.print(f"{key}: {parent_value or '(absent)'} → {value or '(absent)'}")


@app.command("run")
def run_command(
    recipe: RecipeFile,
    to: Annotated[str | None, typer.Option(metavar="STAGE", help="as far as STAGE, with its evaluations")] = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="this stage alone")] = None,
    force: Annotated[list[str] | None, typer.Option(metavar="STAGE", help="re-run STAGE, and what needs it")] = None,
    launch: LaunchFile = None,
    engine: EngineWords = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="make up to N stages at once that need no other")
    ] = 1,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run the stages that are pending. Interrupted? The same command continues."""
    from ft.report.terminal import result_rows, show_results, show_rounds
    from ft.run.distributed import follows
    from ft.run.executor import follow_leader
    from ft.run.run import choose_stages, run

    if follows():  # one of several that `accelerate launch` has started: the first one reads, prepares and answers
        sys.exit(follow_leader())
    way = read_launch_file(launch, runs)
    checked = read_recipe(recipe, set_, runs, engine)
    with write_report_after(checked, set_ or (), runs):
        planned = run(checked, runs, to=to, only=only, force=force or (), launch=way, jobs=jobs)
    stages = choose_stages(planned, to, only)
    if as_json:
        return print_json(result_rows(stages))
    show_results(stages, out)
    return show_rounds(planned, out)


@app.command("show")
def show_command(
    recipe: RecipeFile,
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="the first with rows, if not given")] = None,
    rows: Annotated[int, typer.Option(metavar="N", min=0, help="how many rows to show")] = 3,
    html: Annotated[bool, typer.Option("--html", help="write a web page: runs/RECIPE/STAGE-rows.html")] = False,
    html_file: Annotated[Path | None, typer.Option("--html-file", metavar="FILE", help="write it to FILE")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Preview tokenized rows and their loss mask, with counts and lengths."""
    from ft.results.store import plan
    from ft.tools.show import print_rows, rows_as_json, view_rows

    view = view_rows(plan(read_recipe(recipe, set_, runs), runs), stage, rows)
    if html or html_file:
        from ft.report.page import rows_page, write

        path = html_file or runs / view.recipe / f"{view.stage}-rows.html"
        out.print(str(write(rows_page(view), path)))
    else:
        print_json(rows_as_json(view)) if as_json else print_rows(view, out)


@app.command("stats")
def stats_command(
    path: Annotated[str, typer.Argument(metavar="RECIPE|FILE", help="a recipe, or a file of rows")],
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="of a recipe; all, if not given")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="how a FILE is written")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="what a FILE's are called")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="count a FILE in its tokens, not in words")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What rows hold: how many, turns, lengths, grades, ties and what is broken, source by source."""
    from ft.results.store import plan
    from ft.tools.stats import file_source, file_stats, recipe_stats, show_stats, stats_as_json

    with Progress("reading rows", unit="rows") as progress:
        if is_recipe(path):
            _only_for("a FILE", {"--format": format_, "--columns": columns, "--model": model})
            planned_run = plan(read_recipe(recipe_file(path), set_, runs), runs)
            stats = recipe_stats(planned_run, stage, progress.advance, lambda note: talk.print(note, style="yellow"))
        else:
            _only_for("a RECIPE", {"STAGE": stage, "--set": set_})
            stats = [file_stats(file_source(path, format_, columns or []), model, progress.advance)]
    if as_json:
        return print_json([stats_as_json(part) for part in stats])
    for part in stats:
        show_stats(part, out)
    return None


def _only_for(use: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if value:
            raise fail(name, f"is for {use} only", "Leave it out.")


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="recipes/NAME.yaml, or a path that ends in .yaml")],
    recipe: Annotated[Path, typer.Option("--from", metavar="RECIPE", parser=recipe_file, help="what to start from")],
    data: Annotated[str, typer.Option(metavar="FILE|ID", help="your rows: a file, a folder, or an id of the Hub")],
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="which stage gets them; the first on such")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="how rows are written")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="what a column is called")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="set bad rows aside instead of refusing them")] = False,
    max_length: Annotated[int | None, typer.Option(metavar="TOKENS", min=1, help="longest row of the stage")] = None,
    too_long: Annotated[
        str | None, typer.Option(metavar="drop_turns|drop|split", help="what longer rows become")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="of the data set, if not train")] = None,
    subset: Annotated[str | None, typer.Option(metavar="NAME", help="which configuration of a Hub data set")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the recipe if it is there")] = False,
    set_: Sets = None,
    runs: Runs = Path("runs"),
) -> None:
    """A recipe for your own rows: looked at first, then written, with what differs and what to type next."""
    from ft.results.store import plan
    from ft.tools.new import ForkOptions, fork, fork_lines, parse_columns

    if not name.strip():
        raise fail("NAME", "no name is given", "Write `ft new NAME --from RECIPE --data FILE`.")
    columns_by_name, sets = parse_columns(columns or []), set_ or []
    options = ForkOptions(
        name, data, stage, format_, columns_by_name, reject, too_long, force, max_length, sets, split, subset
    )
    parent = plan(read_recipe(recipe, sets, runs), runs)
    with Progress("reading rows", unit="rows") as progress:
        new_recipe = fork(parent, options, lambda path: read_recipe(path, None, runs), progress.advance)
    for line in fork_lines(new_recipe):
        talk.print(line)
    _diff(new_recipe.path, None, as_json=False)
    path = new_recipe.path
    out.print(f"\nlook at the rows: ft show {path}\ntrain on them:    ft run {path} --to {new_recipe.stage.name}")


@app.command("recipes")
def recipes_command(as_json: AsJson = False) -> None:
    """The recipes that come with ft, each by the name that commands take, `--from` and `extends:` too."""
    summaries = {name: recipe_summary(file) for name, file in bundled_recipes().items()}
    if as_json:
        return print_json(summaries)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for name, summary in summaries.items():
        table.add_row(name, Text(summary))
    out.print(table)
    return None


@app.command("stage", hidden=True)
def stage_command(job: Path) -> None:
    """One stage's own process, started by `ft run`."""
    from ft.run.stage import make_stage

    make_stage(job)


@app.command("ranks", hidden=True)
def ranks_command(config: Path, job: Path) -> None:
    """A stage's several processes, started by `ft run --launch`."""
    from ft.recipe.job import Job
    from ft.run.distributed import start_ranks

    Job.read(job)  # before a launcher starts anything
    sys.exit(start_ranks(config, job))
