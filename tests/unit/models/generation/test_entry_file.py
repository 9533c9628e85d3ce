"""Entries are found in their file by key; what a kill cut off is not."""

from __future__ import annotations

from pathlib import Path

from ft.files import append_lines
from ft.models.generation.entry_file import EntryFile

ENTRIES = [
    {"key": "b/1", "text": 'says "key": here\n'},
    {"key": "a/0", "score": -0.1},
    {"key": 'with "quotes" and ä\\', "text": "ü"},
    {"key": "a/0", "score": 0.25},
]


def written(folder: Path) -> Path:
    append_lines(folder / "entries.jsonl", ENTRIES)
    return folder / "entries.jsonl"


def test_an_entry_is_found_by_its_key_and_the_last_line_of_a_key_counts(tmp_path):
    found = EntryFile(written(tmp_path))
    assert found["b/1"] == {"text": 'says "key": here\n'}
    assert found["a/0"] == {"score": 0.25}
    assert found['with "quotes" and ä\\'] == {"text": "ü"}
    assert "a" not in found
    assert found.get("c") is None
    assert not found.is_cut


def test_what_was_cut_is_no_entry(tmp_path):
    file = written(tmp_path)
    with file.open("a", encoding="utf-8") as out:
        out.write('{"key": "c", "text": "hal')
    found = EntryFile(file)
    assert found.is_cut
    assert "c" not in found
    found.write_in_order(file, ["a/0", "c", "b/1"])
    again = EntryFile(file)
    assert [*again] == ["a/0", "b/1"]
    assert again["a/0"] == {"score": 0.25}


def test_there_are_no_entries_where_there_is_no_file(tmp_path):
    assert len(EntryFile(tmp_path / "none.jsonl")) == 0
    (tmp_path / "empty.jsonl").touch()
    assert "a" not in EntryFile(tmp_path / "empty.jsonl")
