"""The command line. To add a command: a function under `@app.command` in the file it belongs to."""

from ft.cli import imports, judge, models, recipes, reports, results
from ft.cli.app import app

__all__ = ["app", "imports", "judge", "models", "recipes", "reports", "results"]
