"""Commands about results: runs, runs diff, runs rm, runs restore, export, secrets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ft.cli.app import AsJson, Runs, Sets, app, print_json, print_notice, read_recipe
from ft.columns import Column, print_table
from ft.console import out, talk
from ft.errors import fail
from ft.progress import clock_time
from ft.recipe.find import is_recipe, recipe_file
from ft.result import Result
from ft.stages import STAGES

runs_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
app.add_typer(runs_app, name="runs", help="All results of a runs folder; `diff`, `rm` and `restore`.")

COLOURS = {"done": "green", "interrupted": "yellow", "running": "cyan", "set aside": "bright_black", "broken": "red"}
SORTS = ("when", "size", "recipe", "kind", "seconds")


@runs_app.callback()
def runs_command(
    context: typer.Context,
    runs: Runs = Path("runs"),
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="only results of this kind")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="only results of this recipe")] = None,
    sort: Annotated[str, typer.Option(metavar="|".join(SORTS), help="what they are sorted by")] = "when",
    as_json: AsJson = False,
) -> None:
    """Every result there: what it is, its state, key numbers, when it was made, how large it is."""
    if context.invoked_subcommand:
        return
    from ft.results.ledger import entries, recipe_meant

    name = recipe and recipe_meant(recipe)
    results = [one for one in entries(runs) if kind in (None, one.kind) and name in (None, one.recipe)]
    for result in results:
        for where in result.damage:
            talk.print(f"{result.folder / where}: this is not what was written, and is left out", style="yellow")
    rows = _sort_rows([_row(result) for result in results], sort)
    if as_json:
        print_json(rows)
    elif not rows:
        talk.print(f"no result in {runs}" + (" of that kind or recipe" if kind or recipe else ""))
    else:
        _show_results(rows)


def _row(result: Result) -> dict[str, Any]:
    from ft.results.ledger import result_row, size

    return {**result_row(result), "bytes": size(result.folder)}


def _sort_rows(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    if by not in SORTS:
        raise fail("--sort", f"it is '{by}'", f"There are: {', '.join(SORTS)}.")
    return rows if by == "when" else sorted(rows, key=lambda row: row["bytes" if by == "size" else by] or 0)


def _show_results(rows: Sequence[dict[str, Any]]) -> None:
    from ft.report.numbers import summary
    from ft.results.ledger import SHORT

    columns = (
        *(Column("recipe"), Column("stage"), Column("kind", rank=3), Column("ID", rank=1), Column("state")),
        *(Column("when", rank=2), Column("time", rank=4, right=True), Column("size", rank=5, right=True)),
        Column("numbers", wraps=True),
    )
    cells = []
    for row in rows:
        words = summary(row["numbers"], STAGES[row["kind"]].display.summary if row["kind"] in STAGES else ())
        state = Text(row["state"], style=COLOURS[row["state"]])
        names = (row["recipe"], row["stage"], row["kind"], row["fingerprint"][:SHORT])
        cells.append([*names, state, row["when"], _time(row["seconds"]), _size(row["bytes"]), words])
    print_table(out, columns, cells)


def _time(seconds: float | None) -> str:
    return "·" if seconds is None else clock_time(seconds)


def _size(count: float) -> str:
    """'3.5 MB': powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


ResultName = Annotated[
    str, typer.Argument(metavar="RESULT", help="a fingerprint's beginning, a folder, or RECIPE:STAGE")
]


@runs_app.command("diff")
def diff_command(one: ResultName, other: ResultName, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """What decided the difference of two results, key by key, and their numbers side by side."""
    from ft.results.ledger import compare_results, entries, find_result

    results = entries(runs)
    a, b = find_result(results, one, runs), find_result(results, other, runs)
    keys = [{"key": key, "here": here, "there": there} for key, here, there in compare_results(a, b, results)]
    names = [*dict.fromkeys([*a.numbers, *b.numbers])]
    numbers: list[dict[str, Any]] = [
        {"number": name, "here": a.numbers.get(name), "there": b.numbers.get(name)} for name in names
    ]
    if as_json:
        return print_json({"here": str(a.folder), "there": str(b.folder), "key": keys, "numbers": numbers})
    out.print(f"{a.folder} → {b.folder}")
    if not keys:
        out.print("nothing that decides a result differs" if a.key else "what decided them was not written down")
    for line in keys:
        out.print(f"{line['key']}: {_cell(line['here'])} → {_cell(line['there'])}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("number")
    for result in (a, b):
        table.add_column(result.fingerprint[:8], justify="right")
    for number in numbers:
        style = "bold" if number["here"] != number["there"] else ""
        table.add_row(number["number"], _cell(number["here"]), _cell(number["there"]), style=style)
    if numbers:
        out.print()
        out.print(table)
    return None


def _cell(value: object) -> str:
    return "(absent)" if value is None else str(value)


@runs_app.command("rm")
def rm_command(
    results: Annotated[list[str] | None, typer.Argument(metavar="RESULT…", help="as for diff")] = None,
    cache: Annotated[bool, typer.Option("--cache", help="prepared rows: made again when they are needed")] = False,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="what --force has set aside")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    force: Annotated[bool, typer.Option("--force", help="even where other results were made from it")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Free space: shows what would go and what was made from it, then asks."""
    from ft.results.remove import removal, remove

    if not (results or cache or set_aside):
        raise fail("ft runs rm", "nothing is named", "Name results, or --cache or --set-aside.")
    removals = removal(runs, results or [], cache, set_aside)
    for folder in removals.folders:
        out.print(f"{_size(removals.sizes[folder]):>9}  {folder}")
    for one in removals.dependents:
        talk.print(f"{one} was made from it", style="yellow")
    if not removals.folders:
        talk.print("there is nothing of that to remove")
        return
    if removals.dependents and not force:
        remove(runs, removals)  # refuses, and says why
    question = f"Remove {len(removals.folders)} folders, {_size(sum(removals.sizes.values()))}, for good?"
    if not yes and not sys.stdin.isatty():
        raise fail("ft runs rm", "nobody is there to ask", "Say --yes.")
    if yes or typer.confirm(question, err=True):
        out.print(f"freed {_size(remove(runs, removals, force))}")


@runs_app.command("restore")
def restore_command(
    results: Annotated[list[str], typer.Argument(metavar="RESULT…", help="set aside, as `ft runs` shows")],
    runs: Runs = Path("runs"),
) -> None:
    """Bring results back that `ft run --force` has set aside; a newer one in their place is set aside in turn."""
    from ft.results.set_aside import restore

    for place, newer in restore(runs, results):
        out.print(f"{place} is back" + (f"; what was made there since: {newer}" if newer else ""))


@app.command("secrets")
def secrets_command(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH…]", help="files and folders to read")] = None,
) -> None:
    """Look for tokens and keys in recipes, results, reports and cards; exit code 1 when there are any."""
    from ft.secret_files import scan_all

    places = paths or [place for place in (Path("recipes"), Path("runs")) if place.exists()]
    for absent in (place for place in places if not place.exists()):
        raise fail(str(absent), "there is no such file or folder", "")
    count = 0
    for problem in scan_all(places):
        count += 1
        out.print(str(problem))
    talk.print(f"{count or 'no'} secret{'' if count == 1 else 's'} found in {', '.join(map(str, places))}")
    if count:
        raise typer.Exit(1)


@app.command("export")
def export_command(
    path: Annotated[str, typer.Argument(metavar="RECIPE|FOLDER", help="a recipe, or a result's folder")],
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="of a recipe; its newest model")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="a new folder; runs/export/… if not given")] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="the adapter alone, not merged")] = False,
    dtype: Annotated[str | None, typer.Option(metavar="float32|bfloat16|float16", help="of saved weights")] = None,
    onto: Annotated[str, typer.Option(metavar="trained|original", help="the base to merge into")] = "trained",
    ollama: Annotated[bool, typer.Option("--ollama", help="refuse where no Modelfile can be written")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="a GGUF file too, by llama.cpp's converter")] = False,
    llama_cpp: Annotated[Path | None, typer.Option(metavar="DIR", help="a checkout of llama.cpp")] = None,
    license_: Annotated[str | None, typer.Option("--license", metavar="ID", help="for the card")] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="upload it, with HF_TOKEN")] = None,
    private: Annotated[bool, typer.Option("--private", help="a private repository")] = False,
    cpu: Annotated[bool, typer.Option("--cpu", help="compare on the CPU")] = False,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Export a model: LoRA merged, tokenizer, template, card, Modelfile; compared with the trained one."""
    from ft import artifacts
    from ft.export.hub import push as upload
    from ft.export.hub import ready
    from ft.export.trained_model import TrainedModel
    from ft.export.writing import ExportOptions, export
    from ft.files import read_json

    if onto not in ("trained", "original"):
        raise fail("--onto", f"it is '{onto}'", "Write trained or original.")
    model = TrainedModel.read(_folder(path, stage, set_, runs))
    if push:
        ready(push)
        if adapter and not model.hub_base:
            raise fail("--push", "the adapter's base is a folder of this machine", "Push the merged model.")
    place = to or runs / "export" / f"{model.recipe}-{model.stage}-{model.fingerprint}{'-adapter' * adapter}"
    options = ExportOptions(place, adapter, dtype, onto, ollama, gguf, llama_cpp, license_, cpu)  # type: ignore[arg-type]
    record = read_json(place / artifacts.EXPORT) if to is None else None
    if record and record["asked"] == options.settings:
        talk.print("exported before; what was compared then:")
    else:
        record = export(model, options, lambda line: talk.print(f"{model.stage}: {line}"))
    if as_json:
        print_json({"folder": str(place), **record})
    else:
        _show_export(place, record)
    if push:
        out.print(upload(place, push, private))


def _folder(path: str, stage: str | None, sets: list[str] | None, runs: Path) -> Path:
    """The result meant: a folder itself, or a recipe's stage, or its newest model."""
    from ft.results.store import plan
    from ft.results.variants import finished_stage
    from ft.tools.chat import newest_model

    if not is_recipe(path):
        if stage or sets:
            raise fail("STAGE" if stage else "--set", f"{path} is no recipe", "Leave it out.")
        return Path(path)
    whole = plan(read_recipe(recipe_file(path), sets, runs), runs)
    if stage is not None:
        return finished_stage(whole, stage, print_notice)
    newest = newest_model(whole, print_notice).folder
    assert newest is not None
    return newest


def _show_export(place: Path, record: dict[str, Any]) -> None:
    out.print(f"{place}: {record['form']}, {record['dtype']}, {_size(record['bytes'])}")
    for line in (record["said"], *record["notes"]):
        out.print(line)
    if record.get("ollama") == "Modelfile":
        out.print(f"with Ollama: ollama create NAME -f {place}/Modelfile")
    elif record.get("ollama"):
        out.print(record["ollama"])
