"""The order of the commands in the help, and the command that is meant by a word that is none."""

from __future__ import annotations

import difflib

import typer
from typer.core import TyperGroup

from ft.errors import fail
from ft.stages import STAGES

ORDER = (
    *("recipes", "new", "import", "stats", "show", "plan", "run", "chat", "report", "judge", "inspect", "export"),
    "runs",
)
"""As somebody who is new comes to them; the others stand behind."""
RUN, RUN_STAGE = "ft run RECIPE", "ft run RECIPE --to STAGE"
SUGGESTIONS = {
    **dict.fromkeys(("train", "finetune", "fine-tune", "fit", "start", "resume", "continue", "make"), RUN),
    **dict.fromkeys(("eval", "evaluation", "tune", *STAGES), RUN_STAGE),
    **dict.fromkeys(("generate", "infer", "inference", "talk", "serve"), "ft chat PATH"),
    **dict.fromkeys(("merge", "push", "upload", "save"), "ft export RECIPE STAGE --to DIR"),
    **dict.fromkeys(("init", "create", "fork"), "ft new NAME --from RECIPE --data FILE"),
    **dict.fromkeys(("check", "validate", "status", "memory"), "ft plan RECIPE"),
    **dict.fromkeys(("preview", "data", "rows", "tokens"), "ft show RECIPE"),
    **dict.fromkeys(("describe", "summary", "parameters", "architecture"), "ft inspect MODEL"),
    **dict.fromkeys(("list", "ls", "results"), "ft runs"),
    **dict.fromkeys(("rm", "remove", "delete", "clean"), "ft runs rm RESULT"),
    **dict.fromkeys(("diff", "compare"), "ft report RECIPE RECIPE"),
    "version": "ft --version",
    "help": "ft --help",
}
"""What people type who come from other tools → what it is here."""


class Commands(TyperGroup):
    """The commands of `ft`."""

    def list_commands(self, context: typer.Context) -> list[str]:  # type: ignore[override]
        names = super().list_commands(context)
        return [*(name for name in ORDER if name in names), *(name for name in names if name not in ORDER)]

    def get_command(self, context: typer.Context, name: str):  # type: ignore[no-untyped-def, override]
        command = super().get_command(context, name)
        if command is None:
            near = difflib.get_close_matches(name, self.list_commands(context), n=1)
            suggestion = SUGGESTIONS.get(name.lower()) or (f"ft {near[0]}" if near else "")
            raise fail(
                f"ft {name}", "there is no such command", f"Write `{suggestion}`." if suggestion else "See `ft --help`."
            )
        return command
