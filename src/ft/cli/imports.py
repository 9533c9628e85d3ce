"""`ft import`: a recipe out of configs of other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft import artifacts
from ft.cli.app import Runs, app
from ft.console import talk
from ft.recipe import Recipe, Verdicts, check_tree
from ft.recipe.yaml import Block
from ft.stages import STAGES


@app.command("import")
def import_command(
    configs: Annotated[
        list[Path], typer.Argument(metavar="THEIRS …", help="YAML files, or shell scripts with the flags of a command")
    ],
    to: Annotated[Path | None, typer.Option(metavar="MINE.yaml", help="the recipe; printed if not given")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the recipe if it is there")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """A recipe out of configs of TRL, alignment-handbook, axolotl, LLaMA-Factory, torchtune or ms-swift."""
    from ft.tools.importing.chain import import_recipe

    def check(tree: Block, path: Path) -> Recipe:
        return check_tree(tree, path, STAGES, Verdicts(artifacts.verdict_cache(runs)))

    recipe = import_recipe(configs, to, check, force=force)
    for draft in recipe.drafts:
        if draft.nearest:
            talk.print(f"{draft.mark}: {draft.nearest}", style="yellow")
    for omission in recipe.unknown_keys:
        talk.print(f"left out: {omission}", style="yellow")
    if recipe.omissions:
        names = ", ".join(omission.key for omission in recipe.omissions)
        talk.print(f"left out, with reasons in the recipe: {names}")
    if to is None:
        typer.echo(recipe.text, nl=False)
    else:
        talk.print(f"wrote {to}\nnext: ft plan {to}")
