"""What others wrote is printed as plain text: no terminal obeys it, no token stands in it, no line is endless."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import tiny
from ft.cli import app
from ft.console import Terminal
from ft.errors import Problem, Problems, UserError, fail
from ft.files import write_json
from ft.report.terminal import show_results
from ft.secrets import hide_in_pieces

ESC = "\x1b[2J\x1b]0;title\x07"
SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


def ft(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def printed(*objects: object, width: int = 80) -> str:
    text = io.StringIO()
    Terminal(file=text, width=width).print(*objects)
    return text.getvalue().rstrip("\n")


# The terminal


@pytest.mark.parametrize("text", ["runs[/x]", "old[bold]runs", ":warning: it", "[link=file:///x]a[/link]"])
def test_a_name_is_printed_as_it_is_written(text: str):
    assert printed(text) == text


def test_a_terminal_obeys_nothing_that_is_printed():
    assert printed(f"a{ESC}b\r\x9b5n") == "a⟨U+001B⟩[2J⟨U+001B⟩]0;title⟨U+0007⟩b⟨U+000D⟩⟨U+009B⟩5n"
    assert printed("abc\u202ecod.exe") == "abc⟨U+202E⟩cod.exe"


def test_text_that_is_no_unicode_is_printed():
    assert printed("a\udc80b") == "a⟨U+DC80⟩b"


# Errors


def test_an_error_is_one_line_however_long_and_whatever_is_in_it():
    line = str(Problem("x.yaml:1", f"no column '{'m' * 200_000}{ESC}'\nsecond line", f"There are: {'k, ' * 90_000}"))
    assert len(line) < 3_000
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.startswith("x.yaml:1: no column 'mmm")


def test_the_key_in_an_error_is_masked_wherever_it_stands():
    assert SECRET not in str(fail(f"data/{SECRET}.jsonl", f"no {SECRET}", f"Did you mean {SECRET}?"))


def test_of_very_many_problems_the_first_are_shown_and_the_others_counted():
    problems = Problems()
    for number in range(40_000):
        problems.add(f"x.yaml:{number}", f"no key 'k{number}'")
    with pytest.raises(UserError) as caught:
        problems.raise_any()
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (26, "… and 39,975 more.")


# What commands print


def test_names_of_columns_are_printed_without_their_escapes(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({f"{ESC}messages": [], "m" * 200_000: 1}) + "\n", encoding="utf-8")
    done = ft("stats", rows, "--format", "messages")
    text = done.stdout + done.stderr + str(done.exception)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 3_000


def shown_at_the_end(tmp_path: Path, base: Path, data: Path, dialogue: object) -> str:
    """What a run prints at its end whose evaluation left this dialogue."""
    asked = {"data": [{"path": str(data), "format": "prompt"}], "evaluate": {"max_new_tokens": 4}}
    stages = [tiny.sft(data), {"kind": "evaluate", "init": "$sft", **asked}]
    file, runs = tiny.recipe(tmp_path, stages, model=str(base)), tmp_path / "runs"
    for stage in tiny.planned(file, runs).stages:
        write_json(stage.folder / "done.json", {"stage": stage.name, "numbers": {"steps": 3}})
        write_json(stage.folder / "dialogue.json", dialogue)
    text = io.StringIO()
    show_results(tiny.planned(file, runs).stages, Terminal(file=text))
    return text.getvalue()


def test_the_dialogue_at_the_end_of_a_run_moves_no_cursor(tmp_path: Path, base: Path, data: Path):
    dialogue = [{"role": "user", "content": f"hi {SECRET}"}, {"role": ESC, "content": ESC}]
    text = shown_at_the_end(tmp_path, base, data, dialogue)
    assert "\x1b" not in text
    assert SECRET not in text
    assert "hi hf_…(29 characters)" in text


@pytest.mark.parametrize("value", [5, "x", [1, "a", None], {"role": "user"}, [{}], [{"role": 5, "content": [1, {}]}]])
def test_a_damaged_dialogue_does_not_end_a_good_run_badly(tmp_path: Path, base: Path, data: Path, value: object):
    assert "sft: 3 steps" in shown_at_the_end(tmp_path, base, data, value)


SECRETS_IN_A_RECIPE = {
    "name of a stage": ("kind: sft", f"kind: sft\n    name: {SECRET}"),
    "name of the recipe": ("stages:", f"name: {SECRET}\nstages:"),
    "key": ("kind: sft", f"kind: sft\n    {SECRET}: 1"),
    "kind": ("kind: sft", f"kind: {SECRET}"),
    "init": ("kind: sft", f"kind: sft\n    init: ${SECRET}"),
    "extends": ("stages:", f"extends: {SECRET}.yaml\nstages:"),
    "file of rows": ("rows.jsonl", f"{SECRET}.jsonl"),
    "tag": ("kind: sft", f"kind: !{SECRET} sft"),
    "anchor": ("kind: sft", f"kind: *{SECRET}"),
    "requirement": ("kind: sft", f"kind: sft\n    require: {{{SECRET}: 1}}"),
}


@pytest.mark.parametrize("place", SECRETS_IN_A_RECIPE)
def test_a_token_anywhere_in_a_recipe_is_refused_and_never_printed(tmp_path: Path, data: Path, place: str):
    written, secret = SECRETS_IN_A_RECIPE[place]
    text = "model: hub/name\nstages:\n  - kind: sft\n    data: [rows.jsonl]\n    train: {max_length: 64}\n"
    (tmp_path / "rows.jsonl").write_bytes(data.read_bytes())
    (tmp_path / "x.yaml").write_text(text.replace(written, secret), encoding="utf-8")
    done = ft("plan", tmp_path / "x.yaml", "--runs", tmp_path / "runs")
    assert isinstance(done.exception, UserError)
    assert SECRET not in done.stdout + done.stderr + str(done.exception)
    assert not any(
        SECRET in file.read_text(encoding="utf-8") for file in (tmp_path / "runs").rglob("*") if file.is_file()
    )


@pytest.mark.parametrize("name", ["", "  ", "x" * 300, "/dev/null", "a\x1bb", "a\udc80b"])
def test_a_runs_folder_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, name: str):
    done = ft("run", tmp_path / "x.yaml", "--runs", name)
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith("--runs")


def test_a_recipe_without_a_name_is_not_made(tmp_path: Path):
    done = ft("new", "", "--from", tmp_path / "x.yaml", "--data", tmp_path / "rows.jsonl")
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith("NAME: ")


@pytest.mark.parametrize("words", [["stage", "/nope"], ["ranks", "/nope", "/nope"]])
def test_a_process_that_is_given_no_job_says_so(words: list[str]):
    assert "/nope: " in str(ft(*words).exception)


# Rows


Shows = Callable[..., str]


def test_a_token_that_rows_hold_is_masked_in_the_page_of_rows_and_in_the_terminal(tmp_path: Path, base: Path):
    turns = [{"role": "user", "content": f"my token is {SECRET}."}, {"role": "assistant", "content": ESC}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"messages": turns}) + "\n") * 4, encoding="utf-8")
    recipe = tiny.recipe(tmp_path, [tiny.sft(rows, {"max_length": 128})], model=str(base))
    runs = tmp_path / "runs"
    done = ft("show", recipe, "--html", "--runs", runs)
    page = Path(done.stdout.strip()).read_text(encoding="utf-8")
    letters = "".join(part.partition(">")[2] for part in page.split("<"))
    for text in (letters, ft("show", recipe, "--runs", runs).stdout):
        assert SECRET not in text.replace("\n", "")
        assert "hf_…(29" in text
        assert "\x1b" not in text


def test_a_secret_in_pieces_becomes_one_mask():
    assert hide_in_pieces(["a hf_abcdefghij", "klmnop", "qrstuvwxyz b", "c"]) == [
        "a hf_…(29 characters)",
        "",
        " b",
        "c",
    ]
    assert hide_in_pieces(["a", "b"]) == ["a", "b"]


def test_a_token_that_marks_part_is_found_in_a_page(tmp_path: Path):
    (tmp_path / "rows.html").write_text("<s>hf_abcdefghij</s><s>klmnopqrstuvwxyz</s>\n", encoding="utf-8")
    assert ft("secrets", tmp_path).exit_code == 1
