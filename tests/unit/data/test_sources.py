import json
import os
from pathlib import Path
from typing import Any

import pytest

from ft.data.sources.read import Source, file_hash, fingerprint


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
