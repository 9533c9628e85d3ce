"""Progress is a bar on a terminal and lines elsewhere: what is done, how fast, and how long it still takes."""

from __future__ import annotations

import io
import sys

import pytest

from ft.data.mix import BadRows, mix_rows, share_read
from ft.data.sources.read import Source
from ft.progress import Progress, clock_time


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_long_work_without_a_terminal_has_a_line_every_thirty_seconds(clock, capsys):
    with Progress("questions: answers", 100, unit="answers", clock=clock) as progress:
        for _ in range(10):
            clock.now += 10
            progress.advance(5, tokens=40)
    assert lines(capsys) == [
        "questions: answers 15/100  0.5 answers/s  4 tokens/s  2:50 left",
        "questions: answers 30/100  0.5 answers/s  4 tokens/s  2:20 left",
        "questions: answers 45/100  0.5 answers/s  4 tokens/s  1:50 left",
    ]


def test_short_work_without_a_terminal_says_nothing(clock, capsys):
    with Progress("reading rows", unit="rows", clock=clock) as progress:
        clock.now += 29
        progress.advance(1_000_000)
    assert lines(capsys) == []


def test_what_was_done_before_a_kill_says_nothing_of_the_speed(clock, capsys):
    with Progress("a: answers", 100, done=80, unit="answers", clock=clock) as progress:
        clock.now += 30
        progress.advance(10)
    assert lines(capsys) == ["a: answers 90/100  0.3 answers/s  0:30 left"]


def test_a_count_without_an_end_has_no_time_left(clock, capsys):
    with Progress("reading rows", unit="rows", clock=clock) as progress:
        clock.now += 60
        progress.advance(120_000)
    assert lines(capsys) == ["reading rows 120,000  2,000.0 rows/s"]


def test_the_other_processes_say_nothing(clock, capsys):
    with Progress("a", 9, quiet=True, clock=clock) as progress:
        clock.now += 60
        progress.reach(3, ["loss 1.0"], line=True)
    assert lines(capsys) == []


def test_a_terminal_has_a_bar_with_count_note_and_time(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("sft: step", 4, clock=clock) as progress:
        progress.reach(4, ["loss 1.500"])
    shown = sys.stderr.getvalue()
    assert "sft: step" in shown
    assert "4/4" in shown
    assert "loss 1.500" in shown


def test_a_share_tells_the_time_left_where_nobody_knows_the_total(clock, capsys):
    with Progress("preparing rows", unit="rows", clock=clock, share=lambda: 0.25) as progress:
        clock.now += 60
        progress.advance(1_200)
    assert lines(capsys) == ["preparing rows 1,200 (25%)  20.0 rows/s  3:00 left"]


@pytest.mark.parametrize(("seconds", "words"), [(5, "0:05"), (170, "2:50"), (5465, "1:31:05")])
def test_times_are_written_as_a_clock_does(seconds, words):
    assert clock_time(seconds) == words


@pytest.mark.parametrize(("width", "notes"), [(80, 1), (120, 3), (200, 5)])
def test_a_narrow_terminal_leaves_out_whole_notes_and_cuts_no_number(width, notes, clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stderr", Terminal())
    values = [f"{name} 1234.567" for name in ("loss", "accuracy", "lr", "speed", "memory")]
    with Progress("sft: step", 572, clock=clock) as progress:
        progress.reach(120, values)
    shown = sys.stderr.getvalue()
    assert "…" not in shown
    assert [value in shown for value in values] == [True] * notes + [False] * (5 - notes)


def test_preparing_rows_knows_how_much_of_the_files_it_has_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 10_000, encoding="utf-8")
    source = Source(str(path), format="text", rows=5)
    share = share_read([source])
    assert share() == 0
    assert len(list(mix_rows([source], seed=1, bad=BadRows("error", None)))) == 5
    assert 0.5 < share() <= 1, "read once to count, and again as far as needed"
