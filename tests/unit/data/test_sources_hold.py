"""What a file of rows may do: bounded time and memory, nothing lost inside of rows, what was hashed is what is read."""

import gzip
import hashlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft.data.mix import BadRows, in_batches, mix_rows
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source, file_hash, fingerprint, missing, read
from ft.errors import UserError
from wording import Like


def rows_of(path: Path, **how: Any) -> tuple[list[Any], list[tuple[str, str]]]:
    """The rows of a file, and place and fault of the others."""
    bad: list[tuple[str, str]] = []
    rows = [row for _, row in read(Source(str(path), **how), lambda where, row, fault: bad.append((where, fault.what)))]
    return rows, [(where.replace(str(path), "F"), what) for where, what in bad]


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(UserError) as error:
        rows_of(path, **how)
    return str(error.value).replace(str(path), "F")


# Nothing is lost inside of a row


def test_a_key_that_stands_twice_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    lines = ['{"a": 1, "a": 2}', '{"messages": [{"role": "user", "content": "x", "content": "y"}]}', '{"a": 1}']
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert rows_of(path) == (
        [{"a": 1}],
        [("F:1", "the key 'a' stands twice in an object"), ("F:2", "the key 'content' stands twice in an object")],
    )
    whole = tmp_path / "x.json"
    whole.write_text('{"rows": [{"a": 1}], "rows": [{"a": 2}]}', encoding="utf-8")
    assert refusal(whole) == Like("F: … 'rows' stands twice …")


def test_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    one, inner = pa.array([1]), pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["role", "role"])
    for number, table in enumerate(
        (pa.Table.from_arrays([one, one], names=["text", "text"]), pa.Table.from_arrays([inner], names=["messages"]))
    ):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(table, path)
        assert refusal(path) == Like("F: two columns are named …")


def test_a_quote_that_is_never_closed_costs_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,2\n3,"open\n' + "5,6\n" * 1000 + '7,"x"\n', encoding="utf-8")
    rows, bad = rows_of(path)
    assert [row["a"] for row in rows] == ["1", *["5"] * 1000, "7"]
    assert [where for where, _ in bad] == ["F:3"]


def test_another_separator_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('instruction;output\n"what, then?";"that"\n', encoding="utf-8")
    assert refusal(path) == Like("F:1: … 'instruction;output' … semicolon … comma …")


def test_text_that_is_no_utf_8_in_parquet_costs_its_own_row(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_arrays([text], names=["text"]), path)
    rows, bad = rows_of(path)
    assert rows == [{"text": "a"}, {"text": "c"}]
    assert bad == [("F:2", "a string of it holds 0xff, which is no UTF-8")]


def test_what_a_tool_call_lacks_in_parquet_is_not_null(tmp_path: Path) -> None:
    calls = [{"q": "frog"}, {"n": 3}]
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.Table.from_pylist([{"id": None, "calls": calls}]), path)
    assert rows_of(path)[0] == [{"id": None, "calls": calls}]


def test_lists_of_splits_in_one_json_file_are_read_by_split(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"train": [{"a": 1}], "test": [{"a": 2}]}', encoding="utf-8")
    assert rows_of(path)[0] == [{"a": 1}]
    assert rows_of(path, split="test")[0] == [{"a": 2}]
    path.write_text('{"test": [{"a": 2}]}', encoding="utf-8")
    assert refusal(path) == Like("F: holds rows of test … 'train' … `split: test` …")


def test_a_first_row_of_nulls_is_a_bad_row_and_tells_no_format(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"messages": null, "id": 1}\n{"text": "Once.", "id": 2}\n', encoding="utf-8")
    bad = BadRows("reject", tmp_path / "rejects.jsonl")
    assert [row for _, row in mix_rows([Source(str(path))], seed=1, bad=bad)] == [{"text": "Once.", "id": 2}]
    assert bad.first[0].what == "the row is empty: messages is null"


# Bounded time and memory


def test_a_pipe_or_a_device_is_refused_and_never_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "x.jsonl"
    os.mkfifo(pipe)
    assert refusal(pipe) == Like("F: is no file but … pipe …")
    with pytest.raises(UserError, match="is no file but"):
        file_hash(pipe, None)
    with pytest.raises(UserError, match="is no file but"):
        file_hash(Path("/dev/zero"), None)


@pytest.mark.parametrize("name", ["a\0.jsonl", "x" * 300 + ".jsonl", "~nosuchuser/x.jsonl"])
def test_a_name_that_no_file_can_have_is_a_problem(name: str) -> None:
    problem = missing(Source(name), "x.yaml:3")
    assert problem is not None
    assert problem.where == "x.yaml:3"


def test_a_line_without_end_costs_a_row_and_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "first"}\n{"text": "')
        for _ in range(64):
            file.write(b"x" * 2**20)
        file.write(b'"}\n{"text": "last"}\n')
    tracemalloc.start()
    rows, bad = rows_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [{"text": "first"}, {"text": "last"}]
    assert bad == [("F:2", "the row is longer than 4 MiB")]
    assert peak < 32 * 2**20
    assert len(rows_of(path, max_row_mib=65)[0]) == 3


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.parquet"])
def test_every_type_of_file_bounds_its_rows(tmp_path: Path, name: str) -> None:
    path, rows = tmp_path / name, [{"text": "short"}, {"text": "x" * 2000}, {"text": "short too"}]
    if name == "x.parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = json.dumps(rows) if name == "x.json" else "text\n" + "\n".join(row["text"] for row in rows)
        path.write_text(text, encoding="utf-8")
    good, bad = rows_of(path, max_row_mib=0.001)
    assert good == [rows[0], rows[2]]
    assert len(bad) == 1


def test_a_file_of_line_ends_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**20, compresslevel=1) * 2)
    started = time.monotonic()
    assert refusal(path) == Like("F:1000001: 1,000,000 empty lines …")
    assert time.monotonic() - started < 20


# What was hashed is what is read


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "x.jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8"),
    "x.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode())),
    "x.json": lambda path, rows: path.write_text(json.dumps(rows), encoding="utf-8"),
    "x.csv": lambda path, rows: path.write_text("a\n" + "\n".join(str(row["a"]) for row in rows), encoding="utf-8"),
    "x.parquet": lambda path, rows: parquet.write_table(pa.Table.from_pylist(rows), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_other_bytes_than_those_of_the_plan_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, [{"a": 1}, {"a": 2}])
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert len(rows_of(path, sha256=hashes)[0]) == 2
    WRITERS[name](path, [{"a": 1}, {"a": 3}])
    assert refusal(path, sha256=hashes) == "F: changed after the plan was made from it. The same command plans again."


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 100_000, encoding="utf-8")
    rows = read(Source(str(path), sha256=[hashlib.sha256(path.read_bytes()).hexdigest()]))
    next(rows)
    path.write_text('{"a": 2}\n' * 100_000, encoding="utf-8")
    with pytest.raises(UserError, match="changed after the plan"):
        list(rows)


def test_a_hash_and_a_limit_name_no_other_result(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-8")
    plain = fingerprint(Source(str(path)), None)
    assert fingerprint(Source(str(path), max_row_mib=9, sha256=[plain["files"][0][1]]), None) == plain
    with pytest.raises(UserError, match="is not the file that sha256 names"):
        fingerprint(Source(str(path), sha256=["0" * 64]), None)


def test_long_rows_go_in_small_batches() -> None:
    rows = [SourceRow(f"x:{number}", {"text": "x" * (3 * 2**20 if number in (4, 5) else 10)}) for number in range(8)]
    assert [[row.where for row in batch] for batch in in_batches(iter(rows), 3)] == [
        ["x:0", "x:1", "x:2"],
        ["x:3", "x:4"],
        ["x:5", "x:6", "x:7"],
    ]
