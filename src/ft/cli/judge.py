"""The command that compares two models: judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ft import artifacts
from ft.cli.app import AsJson, Runs, Sets, app, print_json, print_notice, read_recipe
from ft.console import out

MODEL = "a model's folder, a Hub id, RECIPE or RECIPE:STAGE (RECIPE:model is what it starts from)"


@app.command("judge")
def judge_command(
    model: Annotated[str, typer.Argument(metavar="A", help=MODEL)],
    other: Annotated[str, typer.Argument(metavar="B", help="the same")],
    prompts: Annotated[Path, typer.Option(metavar="FILE", help="rows with prompts")],
    by: Annotated[str, typer.Option(metavar="JUDGE", help="a function, reward:MODEL, model:MODEL or server:NAME")],
    prompt: Annotated[Path | None, typer.Option(metavar="FILE", help="how a model or server is asked")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="server: as http://localhost:8000/v1")] = None,
    key_env: Annotated[str | None, typer.Option(metavar="NAME", help="server: the variable with its key")] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="split the win rate by its values")] = None,
    format_: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="how a row is written")] = None,
    temperature: Annotated[float, typer.Option(metavar="X", help="of the answers; 0 is greedy")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="longest answer, in tokens")] = 256,
    batch_size: Annotated[int, typer.Option(metavar="N", help="answers made side by side")] = 64,
    tie: Annotated[float, typer.Option(metavar="X", help="scores no further apart tie")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="the same seed, the same answers")] = 1,
    chat_template: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="for models without one")] = None,
    set_: Sets = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Which of two models answers better, and how sure that is. What is answered and judged is kept."""
    from ft.figures.result_files import ResultFiles
    from ft.files import read_json
    from ft.report.measured import preferred_model
    from ft.tools.judge import JudgeChoice, JudgeRequest, compare, find_model
    from ft.tools.stats import file_source

    choice = JudgeChoice(by, prompt, base_url, key_env)
    choice.blocks()  # what was typed is checked before models are looked for

    def find(name: str) -> Path:
        return find_model(name, runs, lambda file: read_recipe(file, set_, runs), print_notice)

    options: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_new_tokens, "tie": tie}
    options |= {"batch_size": batch_size} | ({"by": column} if column else {})
    kind, _, judge = by.partition(":")
    request = JudgeRequest(
        model=find(model),
        other=find(other),
        prompts=file_source(str(prompts), format_, []),
        choice=choice,
        judge=find(judge) if kind in ("reward", "model") else None,
        options=options,
        seed=seed,
        chat_template=chat_template,
    )
    folder = compare(request, runs)
    numbers = read_json(folder / artifacts.NUMBERS)
    if as_json:
        print_json({"folder": str(folder), **numbers})
    else:
        out.print(f"{preferred_model(ResultFiles(folder))}\n{runs / folder.parent.name / folder.name}")
