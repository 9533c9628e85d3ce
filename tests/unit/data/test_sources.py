import json
import os
from pathlib import Path
from typing import Any

import pytest

from ft.data.sources.read import Source, file_hash, fingerprint, read


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"path": ""}, "path is empty"),
        (
            {"format": "chat"},
            "no format 'chat'. There are: messages, .*",
        ),
        ({"weight": 0.0}, "weight is 0.0; it must be above 0"),
        ({"weight": float("inf")}, "weight is inf; it must be above 0"),
        ({"rows": 0}, "rows is 0; it must be at least 1"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        Source(**({"path": "x.jsonl"} | how))


def test_a_fingerprint_holds_bytes_and_not_names(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", "abc")
    moved = written(tmp_path / "y.jsonl", "abc")
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    of_path = fingerprint(Source(str(path), format="text", weight=2, columns={"text": "a"}), None)

    assert of_path == {
        "files": [[".jsonl", sha256_of_abc]],
        "format": "text",
        "columns": {"text": "a"},
        "weight": 2,
        "rows": None,
    }
    assert fingerprint(Source(str(moved), format="text", weight=2, columns={"text": "a"}), None) == of_path


def test_a_fingerprint_of_a_folder_covers_the_files_that_are_read(tmp_path: Path) -> None:
    for name in ("train", "test"):
        written(tmp_path / f"{name}.jsonl", name)
    before = fingerprint(Source(str(tmp_path)), None)
    written(tmp_path / "test.jsonl", "other")
    unread_changed = fingerprint(Source(str(tmp_path)), None)
    written(tmp_path / "train.jsonl", "other")

    assert unread_changed == before
    assert fingerprint(Source(str(tmp_path)), None) != before


def test_a_fingerprint_of_the_hub_names_what_is_loaded() -> None:
    source = Source("owner/set", split="train_sft", name="en", revision="abc", rows=10)

    assert fingerprint(source, None) == {
        "path": "owner/set",
        "format": None,
        "split": "train_sft",
        "name": "en",
        "revision": "abc",
        "columns": {},
        "weight": 1.0,
        "rows": 10,
    }


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, cache = written(tmp_path / "x.jsonl", "abc"), tmp_path / "new" / "hashes.json"
    first = file_hash(path, cache)
    state = path.stat()
    written(path, "xyz")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert file_hash(path, cache) == first  # same size, same time: not read again
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert file_hash(path, cache) != first


@pytest.mark.parametrize("content", ["{torn", "[]", '{"x": 1}'])
def test_a_broken_cache_of_hashes_is_made_again(tmp_path: Path, content: str) -> None:
    path, cache = written(tmp_path / "x.jsonl", "abc"), written(tmp_path / "hashes.json", content)

    assert file_hash(path, cache)[:8] == "ba7816bf"
    assert json.loads(cache.read_text(encoding="utf-8"))[str(path)][2][:8] == "ba7816bf"


TEXT = b"\xef\xbb\xbfone frog\r\n\ntwo\nthree\n\n\n\nfour \xff\nfive"


@pytest.mark.parametrize(
    ("sample_by", "rows", "bad"),
    [
        ("line", {1: "one frog", 3: "two", 4: "three", 9: "five"}, [8]),
        ("paragraph", {1: "one frog", 3: "two\nthree"}, [8]),
        ("document", {}, [1]),
    ],
)
def test_a_text_file_has_a_row_a_line_or_a_paragraph_or_is_one(
    tmp_path: Path, sample_by: Any, rows: dict[int, str], bad: list[int]
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(TEXT)
    found: list[str] = []

    read_rows = {
        one.where: one.row["text"]
        for one in read(Source(str(path), sample_by=sample_by), lambda where, row, bad: found.append(where))
    }

    assert read_rows == {f"{path}:{line}": text for line, text in rows.items()}
    assert found == [f"{path}:{line}" for line in bad]


def test_a_text_that_is_longer_than_a_row_may_be_is_a_bad_row_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("a line of words\n" * 10_000, encoding="utf-8")
    found: list[str] = []

    rows = list(
        read(Source(str(path), sample_by="document", max_row_mib=0.0625), lambda *row: found.append(row[2].what))
    )

    assert (rows, found) == ([], ["the row is longer than 0.0625 MiB"])


def test_texts_beside_rows_are_notes_and_alone_they_are_rows(tmp_path: Path) -> None:
    written(tmp_path / "LICENCE.txt", "do what you like")
    assert [one.row for one in read(Source(str(tmp_path)))] == [{"text": "do what you like"}]
    written(tmp_path / "rows.jsonl", '{"text": "a"}')
    assert [one.row for one in read(Source(str(tmp_path)))] == [{"text": "a"}]


def test_how_a_text_is_cut_decides_its_rows_and_nothing_else_changes_a_fingerprint(tmp_path: Path) -> None:
    path = str(written(tmp_path / "x.txt", "a"))
    assert "sample_by" not in fingerprint(Source(path), None)
    assert "sample_by" not in fingerprint(Source("org/set"), None)
    assert fingerprint(Source(path, sample_by="paragraph"), None) != fingerprint(Source(path), None)
