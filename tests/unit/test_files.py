"""Files are there whole or not at all; lines are read to the last whole one, whatever their texts hold."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ft.disk import disk_problem
from ft.errors import UserError
from ft.files import (
    append_lines,
    atomic,
    create,
    finite_or_none,
    read_lines,
    read_mapping,
    write_json,
    write_lines,
    write_text,
)
from ft.manifest import find_damage, write_manifest

ROWS = [{"key": "a", "text": "one"}, {"key": "b", "text": "two"}]


def written(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x1c", "\x0b", "\r"])
def test_a_separator_inside_a_text_ends_no_line(tmp_path, separator):
    rows = [{"key": "a", "text": f"one{separator}two"}, *ROWS]
    file = tmp_path / "rows.jsonl"
    file.write_text(written(rows), encoding="utf-8", newline="")
    assert read_lines(file) == rows


def test_a_last_line_that_a_kill_cut_is_left_out_even_inside_a_letter(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes((written(ROWS) + '{"key": "c", "text": "é').encode()[:-1])
    assert read_lines(file) == ROWS


def test_an_absent_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "rows.jsonl") == []


def halfway(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("half of the ne", encoding="utf-8")
    raise KeyboardInterrupt


def test_what_fails_halfway_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path):
    write_text(tmp_path / "page.html", "old")
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "page.html") as beside:
        halfway(beside)
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("page.html", "old")]


def make_file(place: Path) -> None:
    place.write_text("mine", encoding="utf-8")


def make_folder(place: Path) -> None:
    place.mkdir()
    make_file(place / "one.jsonl")


def link_to_a_folder(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to("elsewhere")


def make_new(place: Path, make: Callable[[Path], None], other: Callable[[Path], None] | None = None) -> None:
    """While another command makes it too."""
    with create(place, "Take another name.") as beside:
        make(beside)
        if other:
            other(place)


@pytest.mark.parametrize("make", [make_file, make_folder])
@pytest.mark.parametrize("other", [make_file, make_folder, link_to_a_folder])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_another_command_has_made_is_never_replaced_by_something_new(make, other, when, tmp_path):
    place = tmp_path / "new"
    if when == "before":
        other(place)
    with pytest.raises(UserError, match=r"new: is there already\. Take another name\."):
        make_new(place, make, other if when == "meanwhile" else None)
    assert place.is_symlink() or (place / "one.jsonl" if place.is_dir() else place).read_text(encoding="utf-8")
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("make", [make_file, make_folder])
def test_something_new_takes_the_place_of_nothing_or_of_an_empty_folder(make, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty") if make is make_folder else ("absent",):
        make_new(tmp_path / name, make)
        assert [*tmp_path.rglob("one.jsonl")] if make is make_folder else (tmp_path / name).is_file()


def test_a_folder_where_nothing_can_be_made_is_named(tmp_path):
    with pytest.raises(UserError, match="/proc/x: nothing can be made in this folder"):
        make_new(Path("/proc/x"), make_folder)


def test_what_fails_halfway_leaves_no_folder(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "deep" / "rows") as beside:
        halfway(beside / "one.jsonl")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_folder_appears_with_all_that_was_put_into_it(tmp_path: Path):
    with atomic(tmp_path / "rows") as beside:
        beside.mkdir()
        write_lines(beside / "one.jsonl", ROWS)
        assert not (tmp_path / "rows").exists()
    assert read_lines(tmp_path / "rows" / "one.jsonl") == ROWS
    assert [place.name for place in tmp_path.iterdir()] == ["rows"]


def test_a_folder_that_holds_something_is_never_replaced(tmp_path: Path):
    write_text(tmp_path / "rows" / "mine.txt", "mine")
    with pytest.raises(OSError, match="rows"), atomic(tmp_path / "rows") as beside:
        beside.mkdir()
    assert (tmp_path / "rows" / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_lines_are_added_behind_those_of_the_file(tmp_path: Path):
    write_lines(tmp_path / "rows.jsonl", ROWS[:1])
    append_lines(tmp_path / "rows.jsonl", ROWS[1:])
    assert read_lines(tmp_path / "rows.jsonl") == ROWS


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_file_without_a_mapping_is_read_as_an_empty_one(tmp_path: Path, text: str):
    (tmp_path / "done.json").write_text(text, encoding="utf-8")
    assert read_mapping(tmp_path / "done.json") == {}
    assert read_mapping(tmp_path / "absent.json") == {}


def test_numbers_that_json_cannot_write_are_left_out_however_deep():
    nan = float("nan")
    assert finite_or_none({"a": [1.0, nan, {"b": nan}], "c": "nan"}) == {"a": [1.0, None, {"b": None}], "c": "nan"}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_write_is_refused_with_file_and_key(tmp_path: Path, number: float):
    rows = [{"rewards": [{"helpful": number}]}]
    for write, key in (
        (lambda file: write_json(file, {"numbers": {"kl": number}}), "numbers.kl"),
        (lambda file: write_lines(file, rows), "rewards.0.helpful"),
        (lambda file: append_lines(file, rows), "rewards.0.helpful"),
    ):
        with pytest.raises(UserError) as refused:
            write(tmp_path / "done.json")
        assert str(refused.value).startswith(f"{tmp_path / 'done.json'}: {key}: is {number}")
    assert [file for file in tmp_path.iterdir() if file.stat().st_size] == []


def test_what_a_kill_left_beside_a_file_goes_when_it_is_next_written(tmp_path: Path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    alive = tmp_path / f".done.json.{os.getppid()}"
    for file in (tmp_path / f".done.json.{ended.pid}", tmp_path / f".other.json.{ended.pid}", alive):
        file.write_text("half", encoding="utf-8")
    write_text(tmp_path / "done.json", "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [alive.name, f".other.json.{ended.pid}", "done.json"]
    )


@pytest.mark.parametrize("write", [lambda file, rows: write_lines(file, rows), append_lines])
def test_a_file_that_cannot_be_written_is_named(write, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as refused:
            write(tmp_path / "rows.jsonl", [{"text": "a" * 9999}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    problem = disk_problem(refused.value)
    assert problem is not None
    assert problem.where == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "folder: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "a/b: the disk is read-only"),
        (FileExistsError(errno.EEXIST, "File exists", "a/b"), "a/b: something else stands where a folder is needed"),
        (
            OSError(errno.EISDIR, "Is a directory", "a/.b.12", None, "a/b"),
            "a/b: a folder stands where a file is needed",
        ),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
    ],
)
def test_what_a_disk_refuses_is_said_with_its_place(error: Exception, words: str):
    problem = disk_problem(error, Path("folder"))
    assert words in str(problem)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), RuntimeError("size mismatch")])
def test_other_errors_are_no_fault_of_a_disk(error: Exception, tmp_path: Path):
    assert disk_problem(error, tmp_path) is None


def test_a_manifest_tells_a_whole_folder_from_a_damaged_one(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    for name in ("a.bin", "inner/b.bin"):
        (tmp_path / name).write_bytes(b"content")
    write_manifest(tmp_path)
    (tmp_path / "later.txt").write_text("mine", encoding="utf-8")
    assert find_damage(tmp_path) == ""
    (tmp_path / "inner" / "b.bin").write_bytes(b"contenT")
    assert "inner/b.bin" in find_damage(tmp_path)
    (tmp_path / "inner" / "b.bin").unlink()
    assert "inner/b.bin" in find_damage(tmp_path)


def test_lines_that_hold_no_row_are_left_out(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"key": "a"}\n5\n"x"\n{"key": "b"}\n', encoding="utf-8")
    assert read_lines(file) == [{"key": "a"}, {"key": "b"}]
    (tmp_path / "folder.jsonl").mkdir()
    assert read_lines(tmp_path / "folder.jsonl") == []
