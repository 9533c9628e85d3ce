"""What every command shares: the application, options of one name and meaning, and how answers are printed.

stdout carries the answer, stderr the talk; bad input ends with exit code 2 and no traceback.
"""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ft import artifacts
from ft.cli.commands import Commands
from ft.console import talk
from ft.errors import UserError, fail
from ft.files import finite_or_none
from ft.printable import UNPRINTABLE
from ft.recipe import Recipe, Verdicts, read
from ft.recipe.find import recipe_file
from ft.run.accelerate_config import Launch, launch_of_environment, read_launch
from ft.run.distributed import is_launched
from ft.secrets import hide
from ft.stages import STAGES
from ft.versions import versions

app = typer.Typer(
    cls=Commands,
    help="Fine-tuning recipes: one YAML file, a chain of stages, one folder per result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_versions(value: bool) -> None:
    if value:
        own, *libraries = [" ".join(pair) for pair in versions().items()]
        typer.echo(f"{own}\n{', '.join([f'Python {platform.python_version()}', *libraries])}")
        raise typer.Exit


@app.callback()
def ft_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="of ft and its libraries")
    ] = False,
) -> None:
    pass


RECIPE = "a recipe's YAML file, or the name of one that `ft recipes` lists"
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", parser=recipe_file, help=RECIPE)]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.BLOCK.KEY=VALUE", help="override one key")]


def runs_folder(name: str | Path) -> Path:
    """What `--runs` says. Raises UserError for what can be no folder."""
    path = Path(name)
    if not str(name).strip():
        raise fail("--runs", "no folder is named", "Write `--runs DIR`, or leave it out for `runs`.")
    if UNPRINTABLE.search(str(name)):
        raise fail(f"--runs {name}", "its name holds characters that no report or file can name", "Use another.")
    try:
        if path.exists() and not path.is_dir():
            raise fail(f"--runs {name}", "this is no folder", "Name a folder, there or not.")
    except OSError as error:
        raise fail(f"--runs {name}", f"this can be no folder: {error.strerror}", "Use another.") from error
    return path


Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", parser=runs_folder, help="where results are")]
LaunchFile = Annotated[
    Path | None,
    typer.Option("--launch", metavar="CONFIG", parser=recipe_file, help="an accelerate config, for several GPUs"),
]
EngineWords = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="ray[=ADDRESS]",
        help="compute answers and scores by Ray, here or on a cluster; local: in one process",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def read_recipe(recipe: Path, sets: list[str] | None, runs: Path, engine: str | None = None) -> Recipe:
    try:
        checked = read(recipe, STAGES, sets or (), Verdicts(artifacts.verdict_cache(runs)))
    except UserError:
        if peer := _peer_of(recipe):
            fix = f"Turn it into one: ft import {recipe} --to MINE.yaml."
            raise fail(str(recipe), f"this is a config of {peer}, not a recipe of ft", fix) from None
        raise
    for notice in checked.notices:
        print_notice(notice)
    if engine is None:
        return checked
    try:
        return replace(checked, engine=checked.engine.with_engine(engine))
    except ValueError as error:
        raise fail("--engine", str(error)) from None


def _peer_of(file: Path) -> str:
    """The trainer whose config was given for a recipe; looked for only where the recipe cannot be read."""
    from ft.tools.importing.peers import name_of_peer

    return name_of_peer(file)


def print_notice(text: str) -> None:
    talk.print(text, style="yellow")


def read_launch_file(config: Path | None, runs: Path) -> Launch:
    """As `--launch CONFIG` says, or as `accelerate launch` has started this process."""
    if config is None:
        return launch_of_environment()
    if is_launched():
        fix = "Leave out `--launch`, or start `ft run` by itself."
        raise fail(f"--launch {config}", "`accelerate launch` has started the processes already", fix)
    return read_launch(config, Verdicts(artifacts.verdict_cache(runs)))


def print_json(value: object) -> None:
    """JSON has words of its own for what a terminal would obey, and a token has no place in it either."""
    text = hide(json.dumps(finite_or_none(value), indent=1, default=str, ensure_ascii=False))
    typer.echo(UNPRINTABLE.sub(lambda character: f"\\u{ord(character[0]):04x}", text))
