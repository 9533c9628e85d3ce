"""Files of JSON lines are read to their last whole line, whatever their texts hold."""

from __future__ import annotations

import json

import pytest

from ft.files import read_lines

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
