"""The command line. stdout carries the answer, stderr the talk; bad input ends with exit code 2 and no traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ft.errors import Problems, fail
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
            if there.preparable(planned):
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
    """Rows as the trainer gets them: trained tokens coloured, counts, lengths."""
    from ft.runs import plan
    from ft.show import as_json as json_of
    from ft.show import print_shown, shown

    found = shown(plan(_read(recipe, set_, runs), runs), stage, rows)
    if html or html_file:
        from ft.page import write_page

        out.print(str(write_page(found, html_file or runs / found.recipe / f"{found.stage}-rows.html")), markup=False)
    else:
        _print_json(json_of(found)) if as_json else print_shown(found, out)


@app.command("stats")
def stats_command(
    path: Annotated[str, typer.Argument(metavar="RECIPE|FILE", help="a recipe's .yaml file, or rows")],
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="of a recipe; all, if not given")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="how a FILE is written")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="what a FILE's are called")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="count a FILE in its tokens, not in words")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What rows hold: how many, turns, lengths, grades, ties and what is broken, source by source."""
    from ft.runs import plan
    from ft.stats import as_json as json_of
    from ft.stats import file_source, of_file, of_recipe, show_stats

    rows = 0
    with talk.status("reading rows") as status:

        def tick(count: int) -> None:
            nonlocal rows
            rows += count
            status.update(f"{rows:,} rows read")

        if path.endswith((".yaml", ".yml")):
            _only_for("a FILE", {"--format": format_, "--columns": columns, "--model": model})
            there = plan(_read(Path(path), set_, runs), runs)
            found = of_recipe(there, stage, tick, lambda note: talk.print(note, style="yellow", markup=False))
        else:
            _only_for("a RECIPE", {"STAGE": stage, "--set": set_})
            found = [of_file(file_source(path, format_, columns or []), model, tick)]
    if as_json:
        return _print_json([json_of(one) for one in found])
    for one in found:
        show_stats(one, out)
    return None


def _only_for(what: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise fail(name, f"is for {what} only", "Leave it out.")


@app.command("chat")
def chat_command(
    path: Annotated[str, typer.Argument(metavar="PATH|RECIPE", help="a model's folder, a Hub id, or a recipe")],
    preset: Annotated[str, typer.Option(metavar="greedy|llama2|creative", help="how answers are chosen")] = "llama2",
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="hold the weights in 4 bits (NF4)")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="the system message")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="X", help="0 is greedy")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", metavar="X", help="share of likely tokens kept")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="longest answer, in tokens")] = None,
    chat_template: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="for models without one")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Talk to a model; /help tells the commands. Works from a pipe too."""
    from ft.runs import plan
    from ft.talk import Answers, chat, is_recipe, model_at, newest_model

    found = newest_model(plan(_read(Path(path), None, runs), runs)) if is_recipe(path) else model_at(path)
    chat(found, Answers(preset, temperature, top_p, max_new_tokens), system, load_4bit, chat_template)


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="recipes/NAME.yaml, or a path that ends in .yaml")],
    recipe: Annotated[Path, typer.Option("--from", metavar="RECIPE", help="the recipe to start from")],
    data: Annotated[str, typer.Option(metavar="FILE", help="your rows")],
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="which stage gets them; the first sft")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="how rows are written")] = None,
    columns: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="what a column is called")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="set bad rows aside instead of refusing them")] = False,
    too_long: Annotated[str | None, typer.Option(metavar="drop_turns|drop", help="what long rows become")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the recipe if it is there")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """A recipe for your own rows: looked at first, then written, with what differs and what to type next."""
    from ft.fork import Wish, columns_of, fork, told
    from ft.runs import plan

    wish = Wish(name, data, stage, format_, columns_of(columns or []), reject, too_long, force)
    made = fork(plan(_read(recipe, None, runs), runs), wish, lambda path: _read(path, None, runs))
    for line in told(made):
        talk.print(line, markup=False)
    _diff(made.path, as_json=False)
    out.print(f"\nlook at the rows: ft show {made.path}\ntrain on them:    ft run {made.path} --to {made.stage}")


@app.command("gatt-bank")
def gatt_bank_command(
    path: Annotated[str, typer.Argument(metavar="PATH|RECIPE", help="a model's folder, a Hub id, or a recipe")],
    bank: Annotated[Path, typer.Option(metavar="FILE", help="the instruction bank to start from")],
    kind: Annotated[str, typer.Option(metavar="KIND", help="the kind whose values the model lists")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="where the new bank goes")],
    ask: Annotated[str | None, typer.Option(metavar="WORDS", help="what to ask for, if not the kind's name")] = None,
    count: Annotated[int, typer.Option(metavar="N", min=2, help="how many values")] = 50,
    held_out: Annotated[float, typer.Option(metavar="X", min=0, max=0.5, help="share kept for evaluation")] = 0.2,
    seed: Annotated[int, typer.Option(metavar="N", help="the same seed, the same list")] = 1,
    runs: Runs = Path("runs"),
) -> None:
    """Let a model list values for a kind of instruction, and write the bank that has them."""
    from ft.data.instructions import with_values
    from ft.models.bank import listed_values, parted
    from ft.models.generate import Sampling
    from ft.models.speak import Speaker
    from ft.runs import plan
    from ft.talk import is_recipe, model_at, newest_model

    with_values(bank, kind, ["any"], [])  # the bank is right before a model is loaded
    found = newest_model(plan(_read(Path(path), None, runs), runs)) if is_recipe(path) else model_at(path)
    speaker = Speaker(found.model, found.folder, found.chat_template)
    sampling = Sampling(max_new_tokens=12 * count, temperature=1.0, top_p=0.95, seed=seed)
    values = listed_values(speaker.answer, ask or f"{kind}s", count, sampling)
    if len(values) < 2:
        raise fail(path, f"the model lists no {ask or kind + 's'}", "Try other words with --ask, or a chat model.")
    to.write_text(with_values(bank, kind, values, parted(values, held_out)), encoding="utf-8")
    out.print(f"{to}: {len(values)} values of {kind}", markup=False)


@app.command("stage", hidden=True)
def stage_command(job: Path) -> None:
    """One stage's own process, started by `ft run`."""
    from ft.run import make_stage

    make_stage(job)
