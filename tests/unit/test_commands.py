"""What `ft` answers to a word that is no command, and the order of those that are."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from ft.cli import app
from ft.cli.commands import SUGGESTIONS
from ft.errors import UserError

WORDS = {
    "train": "ft run RECIPE",
    "sft": "ft run RECIPE --to STAGE",
    "dpo": "ft run RECIPE --to STAGE",
    "generate": "ft chat PATH",
    "merge": "ft export RECIPE STAGE --to DIR",
    "paln": "ft plan",
    "List": "ft runs",
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_is_no_command_is_answered_with_the_one_meant(word: str):
    done = CliRunner().invoke(app, [word])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == f"ft {word}: there is no such command. Write `{WORDS[word]}`."


def test_a_word_that_is_like_no_command_leads_to_the_help():
    assert "See `ft --help`" in str(CliRunner().invoke(app, ["xyzzy"]).exception)


def test_the_help_stands_in_the_order_of_a_first_day():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    first = [line.split()[1] for line in text.splitlines() if line.startswith("│ ") and len(line.split()) > 2]
    commands = [name for name in first if not name.startswith("-")]
    assert commands[:8] == ["recipes", "new", "import", "stats", "show", "plan", "run", "chat"]


def test_every_command_that_is_meant_is_there():
    names = {meant.split()[1] for meant in SUGGESTIONS.values()} - {"--version", "--help"}
    assert all(CliRunner().invoke(app, [name, "--help"]).exit_code == 0 for name in names)
