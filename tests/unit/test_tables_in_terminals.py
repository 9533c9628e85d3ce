"""Tables in terminals of any width: nothing is cut, and what matters most keeps its column."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import tiny
from ft.columns import Column, print_table
from ft.fit.gpus import gpu
from ft.fit.sharding import Sharding
from ft.fit.table import fit_plan, show
from ft.recipe.find import recipe_file

WIDTHS = (80, 100, 120, 200)
COLUMNS = (Column("stage"), Column("rows", rank=1, right=True), Column("folder", rank=2), Column("why", wraps=True))
ROWS = [["sft", "9,142", "runs/tiny-chat/sft-6091c73013ea", "new"], ["eval", "·", "", "its input changed and more"]]


def printed(width: int) -> str:
    text = io.StringIO()
    print_table(Console(file=text, width=width), COLUMNS, ROWS)
    return text.getvalue()


def test_a_wide_table_is_a_line_a_row():
    assert printed(80) == (
        "stage   rows  folder                           why\n"
        "sft    9,142  runs/tiny-chat/sft-6091c73013ea  new\n"
        "eval       ·                                   its input changed and more\n"
    )


def test_columns_that_find_no_place_stand_below_their_row_the_least_important_first():
    assert printed(40) == (
        "stage   rows  why\n"
        "sft    9,142  new\n"
        "    folder runs/tiny-chat/sft-6091c73013ea\n"
        "eval       ·  its input changed and more\n"
    )
    assert printed(27) == (
        "stage  why\n"
        "sft    new\n"
        "    rows 9,142\n"
        "    folder runs/tiny-chat/sft-6091c73013ea\n"
        "eval   its input changed\n"
        "       and more\n"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_of_every_stage_has_its_verdict_and_peak_beside_its_name(width: int, tmp_path: Path):
    text = io.StringIO()
    plan = tiny.planned(recipe_file("llama2-7b/chat"), tmp_path / "runs")
    show(fit_plan(plan, gpu("4090"), Sharding()), Console(file=text, width=width))
    table = text.getvalue().partition("GiB a GPU")[0].splitlines()
    assert max(map(cell_len, table)) <= width
    assert "…" not in "".join(table)
    for stage in ("sft", "gatt", "gatt-sft", "consistency"):
        line = next(line for line in table if line.startswith(f"{stage} "))
        assert re.match(rf"{stage} +fits, [\d.]+ to spare +[\d.]+  ", line)


IN_TERMINALS = """
import fcntl, struct, sys, termios
from ft.cli import app
for width in (80, 100, 120, 200):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    print("terminal of", width)
    app(sys.argv[1:], standalone_mode=False)
"""


def test_a_plan_in_a_terminal_loses_no_word_and_no_number(tmp_path: Path):
    """Through a pseudo-terminal, as a user sees it."""
    file, runs = Path(tiny.__file__).parents[1] / "recipes/tiny/dpo.yaml", tmp_path / "runs"
    text = in_terminal([sys.executable, "-c", IN_TERMINALS, "plan", str(file), "--runs", str(runs)])
    plan = tiny.planned(file, runs)
    for width, lines in zip(WIDTHS, re.split(r"terminal of \d+\n", text)[1:], strict=True):
        assert max(cell_len(line) for line in lines.splitlines() if str(runs) not in line) <= width
        for planned in plan.stages:
            assert re.search(rf"^{planned.name} +.*pending +.*not run yet", lines, re.MULTILINE)
            assert str(planned.folder) in lines
    assert "…" not in text


def in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal, without colours."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in tiny.environment().items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, env={**environment, "TERM": "xterm"})
    os.close(theirs)
    output = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while piece := terminal.read(65536):
                output += piece
        except OSError:  # Linux's end of a terminal
            pass
    assert process.wait() == 0
    return re.sub(r"\x1b\[[\d;]*m|\r", "", output.decode())
