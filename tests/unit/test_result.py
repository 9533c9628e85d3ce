"""One class reads a result's folder, in whatever state its files are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import tiny
from ft.files import write_json
from ft.result import Result

OLD = tiny.ROOT / "tests" / "data" / "old_runs"
SFT = OLD / "tiny-chat" / "sft-61806cf09908"


def test_a_finished_result_says_what_it_is_and_what_came_of_it():
    result = Result(SFT)
    assert (result.state, result.stage, result.kind, result.fingerprint) == ("done", "sft", "sft", "61806cf09908")
    assert (result.recipe, result.runs, result.set_aside) == ("tiny-chat", OLD, False)
    assert (result.seconds, result.device, result.processes) == (71.1, "CPU, 1 threads", 1)
    assert result.numbers["steps"] == 4
    assert (result.init, result.parents) == (None, frozenset())
    assert str(result) == "tiny-chat:sft (61806cf09908)"


def test_an_unfinished_result_knows_what_it_is_made_from():
    result = Result(OLD / "tiny-dpo" / "dpo-016cc34f5840")
    assert (result.state, result.kind, result.numbers, result.finished) == ("unfinished", "dpo", {}, "")
    assert result.parents == {"61806cf09908"}
    assert result.init is not None
    assert result.init.name == SFT.name


def test_where_nothing_is_the_result_is_absent(tmp_path: Path):
    result = Result(tmp_path / "runs" / "mine" / "sft-0123456789ab")
    assert (result.state, result.stage, result.fingerprint) == ("absent", "sft", "0123456789ab")
    assert (result.timestamp, result.finished, result.unmet({"accuracy": 1.0})) == (0.0, "", {})


@pytest.mark.parametrize("text", ["", '{"numbers": {"ste', "[]", "{}", '{"numbers": 3}'])
def test_a_done_file_that_no_stage_has_written_finishes_nothing(tmp_path: Path, text: str):
    (tmp_path / "done.json").write_text(text, encoding="utf-8")
    assert Result(tmp_path).state == "unfinished"


def test_a_result_whose_folder_was_renamed_is_named_by_its_files(tmp_path: Path):
    folder = Path(shutil.copytree(SFT, tmp_path / "my best model"))
    assert (Result(folder).stage, Result(folder).fingerprint) == ("sft", "61806cf09908")
    (folder / "job.json").unlink()
    assert Result(folder).stage == "sft"


def test_a_result_set_aside_is_known_by_its_folder(tmp_path: Path):
    aside = Result(tmp_path / "sft-0123456789ab.old-2")
    assert (aside.set_aside, aside.stage, aside.fingerprint) == (True, "sft", "0123456789ab")


def test_what_is_required_is_compared_with_what_was_reached(tmp_path: Path):
    write_json(tmp_path / "done.json", {"numbers": {"accuracy": 0.5, "note": "good", "win_rate": 0.75}})
    assert Result(tmp_path).unmet({"accuracy": 0.65, "note": 0.1, "other": 1, "win_rate": 0.75}) == {
        "accuracy": 0.5,
        "note": "good",
        "other": None,
    }
