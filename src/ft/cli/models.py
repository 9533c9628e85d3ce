"""Commands about a model: chat, inspect, gatt-bank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft.cli.app import AsJson, Runs, Sets, app, print_json, print_notice, read_recipe
from ft.console import out
from ft.errors import fail
from ft.files import create, refuse_existing, write_text
from ft.models.generation.decoding import PRESETS
from ft.recipe.find import is_recipe, recipe_file

if TYPE_CHECKING:
    from ft.tools.chat import ChatTarget


@app.command("chat")
def chat_command(
    path: Annotated[str, typer.Argument(metavar="PATH|RECIPE", help="a model's folder, a Hub id, or a recipe")],
    preset: Annotated[str, typer.Option(metavar="|".join(PRESETS), help="how answers are chosen")] = "llama2",
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="hold the weights in 4 bits (NF4)")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="the system message")] = None,
    temperature: Annotated[float | None, typer.Option(metavar="X", help="0 is greedy")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", metavar="X", help="share of likely tokens kept")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", metavar="N", help="likeliest tokens kept; 0: all")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", metavar="X", help="of the likeliest's probability")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(metavar="X", help="1: words may come again")] = None,
    beams: Annotated[int | None, typer.Option(metavar="N", help="beginnings followed side by side")] = None,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="ends an answer; may be given again")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="longest answer, in tokens")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="the same seed and messages, the same answers")] = 1,
    chat_template: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="for models without one")] = None,
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE", help="your own .py file of functions to call; .json: only show calls")
    ] = None,
    run_tools: Annotated[bool, typer.Option("--run-tools", help="run each call without asking")] = False,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="the picture that is asked about")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
) -> None:
    """Talk to a model; /help tells the commands. Works from a pipe too."""
    from ft.tools.chat import AnswerOptions, chat

    target = _find_model(path, set_, runs)
    decoding: dict[str, object] = {"preset": preset, "temperature": temperature, "top_p": top_p}
    decoding |= {"top_k": top_k, "min_p": min_p, "repetition_penalty": repetition_penalty}
    decoding |= {"beams": beams, "stop": stop or []}
    options = AnswerOptions(decoding, max_new_tokens, seed)
    raise typer.Exit(chat(target, options, system, load_4bit, chat_template, tools, run_tools, image))


@app.command("inspect")
def inspect_command(
    path: Annotated[
        str, typer.Argument(metavar="MODEL|RECIPE", help="a model's folder, a Hub id or its last part, or a recipe")
    ],
    picture: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="draw the stack of blocks there")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """What a model is made of, by its config alone: blocks, shapes, parameters, bytes, positions, cache."""
    from ft.figures.svg_file import figure_file
    from ft.tools.inspect import inspect_path, inspect_recipe, inspection_values, show_inspection, stack_figures

    if picture and picture.suffix != ".svg":
        raise fail(f"--picture {picture}", "pictures are written as SVG", "Name a file that ends in .svg.")
    if is_recipe(path):
        found = inspect_recipe(read_recipe(recipe_file(path), set_, runs))
    else:
        _refuse_sets(path, set_)
        found = inspect_path(path)
    if picture:
        with create(picture, "Give another file.") as beside:
            write_text(beside, figure_file(path, stack_figures(found)))
    if as_json:
        print_json(inspection_values(found))
    else:
        show_inspection(path, found, out)


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
    set_: Sets = None,
    runs: Runs = Path("runs"),
) -> None:
    """Let a model list values for a kind of instruction, and write the bank that has them."""
    from ft.gatt.instructions import with_values
    from ft.gatt.value_lists import held_out_values, listed_values
    from ft.models.generation.chat_model import ChatModel
    from ft.models.generation.sampling import Sampling

    with_values(bank, kind, ["any"], [])  # the bank and the place are right before a model is loaded
    refuse_existing(to, "Give another file.")
    target = _find_model(path, set_, runs)
    chat_model = ChatModel(target.model, target.folder, target.chat_template)
    sampling = Sampling(max_new_tokens=12 * count, temperature=1.0, top_p=0.95, seed=seed)
    values = listed_values(chat_model.answer, ask or f"{kind}s", count, sampling)
    kept_back = held_out_values(values, held_out)
    if len(values) < 2 or (len(values) < count and held_out and not kept_back):
        what = f"the model lists {len(values)} of {count} {ask or kind + 's'}: too few"
        raise fail(path, what, "Try other words with --ask, or a chat model.")
    with create(to, "Give another file.") as beside:
        write_text(beside, with_values(bank, kind, values, kept_back))
    out.print(f"{to}: {len(values)} values of {kind} ({count} asked for), {len(kept_back)} of them held out")


def _find_model(path: str, sets: list[str] | None, runs: Path) -> ChatTarget:
    """A recipe's newest model, or the model at a path or of the Hub."""
    from ft.results.store import plan
    from ft.tools.chat import model_at, newest_model

    if is_recipe(path):
        return newest_model(plan(read_recipe(recipe_file(path), sets, runs), runs), print_notice)
    _refuse_sets(path, sets)
    return model_at(path)


def _refuse_sets(path: str, sets: list[str] | None) -> None:
    if sets:
        raise fail("--set", f"{path} is no recipe", "Leave it out.")
