"""The ledger tells what is there, why two results differ, and lets nothing go that is used or rested on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft import artifacts
from ft.cli import app
from ft.errors import UserError
from ft.files import write_json
from ft.results.ledger import compare_results, entries, find_result, status
from ft.results.locks import hold_lock, hold_result
from ft.results.remove import removal, remove
from wording import Like

Key = Mapping[str, Any]


def result(runs: Path, recipe: str, stage: str, fingerprint: str, key: Key | None = None, **done: Any) -> Path:
    """A made-up result; finished where it has numbers."""
    folder = runs / recipe / f"{stage}-{fingerprint}"
    write_json(folder / "key.json", {"kind": "sft", "seed": 1, **(key or {})})
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    if done:
        write_json(folder / "done.json", {"stage": stage, "kind": "sft", **done})
        moment = len(list(runs.glob("*/*/done.json")))
        os.utime(folder / "done.json", (moment, moment))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A chain: sft, dpo from it, an evaluation of that; another sft; one interrupted; one set aside."""
    runs = tmp_path / "runs"
    train = {"data": [{"path": "one", "weight": 1.0}], "train": {"beta": 0.1, "words": "a long value, " * 9}}
    numbers = {"eval_loss_first": 2.0, "eval_loss": 0.5, "steps": 7, "rows": 9}
    result(runs, "chat", "sft", "a" * 12, train, numbers=numbers, seconds=61)
    result(runs, "chat", "dpo", "b" * 12, {"init": "a" * 12}, numbers={}, seconds=1)
    result(runs, "chat", "facts", "c" * 12, {"init": "b" * 12}, numbers={"answer": 0.5}, seconds=1)
    other = {**train, "seed": 2, "train": {**train["train"], "beta": 0.2}, "data": [{"path": "one", "weight": 2.0}]}
    result(runs, "mine", "sft", "a1" * 6, other, numbers={"eval_loss": 0.25, "steps": 7}, seconds=3700)
    result(runs, "mine", "dpo", "d" * 12, {"init": "a1" * 6})
    result(runs, "chat", "sft", "a" * 12 + ".old-1", train, numbers=numbers)
    (runs / "chat" / "pictures").mkdir()
    (runs / ".cache" / "rows-123").mkdir(parents=True)
    return runs


def ft(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["runs", *map(str, words)])
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    return done.exit_code, done.output


def test_every_result_is_listed_with_its_state(runs: Path):
    found = [(one.recipe, one.stage, one.fingerprint[:2], status(one)) for one in entries(runs)]
    assert sorted(found) == [
        ("chat", "dpo", "bb", "done"),
        ("chat", "facts", "cc", "done"),
        ("chat", "sft", "aa", "done"),
        ("chat", "sft", "aa", "set aside"),
        ("mine", "dpo", "dd", "interrupted"),
        ("mine", "sft", "a1", "done"),
    ]


def test_a_recipes_file_means_the_results_under_the_name_it_gives_itself(runs: Path, tmp_path: Path):
    parent, fork = tmp_path / "long.yaml", tmp_path / "fork.yaml"
    parent.write_text("name: chat\nstages: []\n", encoding="utf-8")
    fork.write_text("extends: long.yaml\n", encoding="utf-8")  # a parent's name is not its fork's
    result(runs, f"{tmp_path.name}-fork", "sft", "e" * 12, numbers={})
    assert {row["recipe"] for row in json.loads(ft("--runs", runs, "--recipe", parent, "--json")[1])} == {"chat"}
    assert find_result(entries(runs), f"{parent}:facts", runs).fingerprint == "c" * 12
    assert [row["stage"] for row in json.loads(ft("--runs", runs, "--recipe", fork, "--json")[1])] == ["sft"]
    assert "no such recipe" in ft("--runs", runs, "--recipe", tmp_path / "gone.yaml")[1]


def test_the_list_shows_numbers_time_and_size(runs: Path):
    line = next(
        line for line in ft("--runs", runs, "--recipe", "chat", "--kind", "sft")[1].splitlines() if "aaa" in line
    )
    said = line.split()
    assert said[:5] == ["chat", "sft", "sft", "aaaaaaaa", "done"]
    assert said[7:] == ["1:01", "1.4", "kB", "eval", "loss", "2.000", "→", "0.500,", "7", "steps"]


def test_the_list_as_json_is_filtered_and_sorted(runs: Path):
    rows = json.loads(ft("--runs", runs, "--recipe", "mine", "--sort", "seconds", "--json")[1])
    assert [(row["stage"], row["seconds"], row["state"]) for row in rows] == [
        ("dpo", None, "interrupted"),
        ("sft", 3700, "done"),
    ]
    assert ft("--runs", runs, "--sort", "beauty")[0] == 2


def test_a_result_being_made_is_told_from_an_interrupted_one(runs: Path):
    with hold_result(runs, runs / "mine" / f"dpo-{'d' * 12}"):
        assert {one.stage for one in entries(runs) if status(one) == "running"} == {"dpo"}


def test_a_result_is_named_by_fingerprint_folder_or_recipe_and_stage(runs: Path):
    all_ = entries(runs)
    sft = runs / "chat" / f"sft-{'a' * 12}"
    for word in ("aaa", str(sft), "chat:sft", "a" * 12):
        assert find_result(all_, word, runs).folder == sft
    assert status(find_result(all_, "a" * 12 + ".old-1", runs)) == "set aside"
    for word in ("fff", "chat:ppo", str(runs)):
        with pytest.raises(UserError, match="no such result"):
            find_result(all_, word, runs)
    result(runs, "chat", "sft", "a" * 11 + "b", numbers={})
    with pytest.raises(UserError, match="2 results are meant"):
        find_result(entries(runs), "aaa", runs)


def test_a_difference_is_told_key_by_key_in_full(runs: Path):
    all_ = entries(runs)
    one, other = find_result(all_, "chat:sft", runs), find_result(all_, "mine:sft", runs)
    assert compare_results(one, other, all_) == [
        ("seed", 1, 2),
        ("data.0.weight", 1.0, 2.0),
        ("train.beta", 0.1, 0.2),
    ]


def test_a_difference_of_parents_is_followed_to_its_cause(runs: Path):
    all_ = entries(runs)
    found = compare_results(find_result(all_, "chat:dpo", runs), find_result(all_, "mine:dpo", runs), all_)
    assert [key for key, _, _ in found] == ["init", "init › seed", "init › data.0.weight", "init › train.beta"]


def test_diff_sets_the_numbers_side_by_side(runs: Path):
    said = ft("diff", "chat:sft", "mine:sft", "--runs", runs)[1]
    assert "train.beta: 0.1 → 0.2" in said
    assert [line.split() for line in said.splitlines()[-4:]] == [
        ["eval_loss_first", "2.0", "(absent)"],
        ["eval_loss", "0.5", "0.25"],
        ["steps", "7", "7"],
        ["rows", "9", "(absent)"],
    ]


def test_nothing_goes_that_other_results_were_made_from(runs: Path):
    code, said = ft("rm", "chat:sft", "--yes", "--runs", runs)
    assert code == 2
    assert "chat:dpo" in said
    assert "chat:facts" in said
    assert len(entries(runs)) == 6
    assert ft("rm", "chat:sft", "--yes", "--force", "--runs", runs)[0] == 0
    assert len(entries(runs)) == 5


def test_results_go_together_with_what_was_made_from_them(runs: Path):
    assert ft("rm", "chat:sft", "chat:dpo", "chat:facts", "--yes", "--runs", runs)[0] == 0
    assert {one.recipe for one in entries(runs) if status(one) == "done"} == {"mine"}


def test_one_of_two_equal_results_may_go(runs: Path):
    result(runs, "copy", "sft", "a" * 12, numbers={"steps": 7})
    assert removal(runs, [str(runs / "copy" / f"sft-{'a' * 12}")]).dependents == ()


def test_nothing_goes_that_is_in_use(runs: Path):
    with hold_result(runs, runs / "mine" / f"dpo-{'d' * 12}"):
        with pytest.raises(UserError, match=r"mine:dpo .* is being made now"):
            removal(runs, ["mine:dpo"])
        with pytest.raises(UserError, match=r"mine:dpo .* is being made now"):
            removal(runs, ["mine:sft"])  # it reads its parent
        write_json(runs / "mine" / f"dpo-{'d' * 12}" / "job.json", {"rows": str(runs / ".cache" / "rows-123")})
        with pytest.raises(UserError, match="rows are in use"):
            removal(runs, [], cache=True)


def test_a_run_that_starts_while_the_user_thinks_keeps_its_result(runs: Path):
    found = removal(runs, ["mine:dpo"])
    with hold_result(runs, runs / "mine" / f"dpo-{'d' * 12}"), pytest.raises(UserError, match="in use"):
        remove(runs, found)
    assert found.results[0].folder.exists()


def test_nothing_goes_unless_the_user_says_so(runs: Path):
    code, said = ft("rm", "mine:dpo", "--runs", runs)
    assert (code, said) == (2, Like("… nobody … --yes …"))
    assert ft("rm", "--runs", runs)[0] == 2
    assert len(entries(runs)) == 6


def test_prepared_rows_and_results_set_aside_go_when_asked(runs: Path):
    said = ft("rm", "--cache", "--set-aside", "--yes", "--runs", runs)[1]
    assert "rows-123" in said
    assert ".old-1" in said
    assert said.splitlines()[-1] == "freed 1.4 kB"
    assert not list((runs / ".cache").glob("r*"))
    assert len(entries(runs)) == 5


def test_a_result_that_was_set_aside_is_brought_back(runs: Path):
    code, said = ft("restore", "a" * 12 + ".old-1", "mine:dpo", "--runs", runs)
    assert (code, said) == (2, Like(f"{runs / 'mine' / 'dpo-dddddddddddd'}: … not set aside …"))
    assert len([one for one in entries(runs) if one.set_aside]) == 1
    ft("rm", "chat:sft", "--yes", "--force", "--runs", runs)
    assert ft("restore", "a" * 12 + ".old-1", "--runs", runs)[0] == 0
    assert status(find_result(entries(runs), "chat:sft", runs)) == "done"


def test_a_thousand_results_are_listed_at_once_and_without_torch(tmp_path: Path):
    for number in range(1000):
        folder = tmp_path / f"r{number % 10}" / f"sft-{number:012x}"
        folder.mkdir(parents=True)
        (folder / "key.json").write_text(json.dumps({"kind": "sft", "init": f"{number + 1:012x}"}), encoding="utf-8")
        (folder / "done.json").write_text(json.dumps({"kind": "sft", "numbers": {"steps": 1}}), encoding="utf-8")
    script = (
        "import sys, time, ft.cli, ft.results.ledger, ft.results.remove, pathlib; start = time.process_time(); "
        "print(len(ft.results.ledger.entries(pathlib.Path(sys.argv[1]))), time.process_time() - start, "
        "'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    count, seconds, torch = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (count, torch) == ("1000", "False")
    assert float(seconds) < 2


ODD = ["", "{", "[]", '"x"', "5", "null", '{"numbers": null}', '{"data": 5}', '{"inputs": 3}', '{"kind": 3}', "[" * 999]


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:20])
@pytest.mark.parametrize("name", ["key.json", "done.json", "job.json"])
def test_an_odd_file_of_one_result_hides_no_other_and_is_named(name: str, text: str, runs: Path):
    odd = runs / "chat" / f"dpo-{'b' * 12}"
    (odd / name).write_text(text, encoding="utf-8")
    code, output = ft("--runs", runs)
    assert code == 0
    assert len([line for line in output.splitlines() if " done " in line]) >= 3
    fits = name != "done.json" and text == '{"numbers": null}'  # only done.json has numbers
    assert (f"{odd / name}" in output) != fits
    code, output = ft("diff", "chat:sft", "mine:sft", "--runs", runs)
    assert (code, "train.beta" in output) == (0, True)


def test_a_result_whose_done_file_is_broken_is_broken(runs: Path):
    (runs / "chat" / f"dpo-{'b' * 12}" / "done.json").write_text('{"numbers": 3}', encoding="utf-8")
    assert {one.stage for one in entries(runs) if status(one) == "broken"} == {"dpo"}


def test_folders_that_cannot_be_read_hide_no_other(runs: Path):
    (runs / "loop").symlink_to("loop")
    (runs / "chat" / f"sft-{'f' * 12}").symlink_to(f"sft-{'f' * 12}")
    (runs / "a file").write_text("x", encoding="utf-8")
    (runs / "chat" / f"facts-{'c' * 12}" / "inner").symlink_to("inner")
    assert ft("--runs", runs)[0] == 0
    assert len(entries(runs)) == 6


def test_what_another_command_removes_meanwhile_is_no_loss(runs: Path):
    both = [removal(runs, ["mine:dpo"]) for _ in range(2)]
    assert [remove(runs, one) > 0 for one in both] == [True, False]


def test_results_of_one_name_are_removed_at_once(runs: Path):
    """A lock is of one folder: what stands elsewhere under the same name is another result."""
    copy = result(runs, "copy", "sft", "a" * 12, numbers={"steps": 7})
    going = removal(runs, [str(copy)])
    with hold_lock(artifacts.result_lock(runs, runs / "chat" / copy.name)):
        assert remove(runs, going) > 0
    assert not copy.exists()


def test_eight_commands_remove_eight_results_at_once(runs: Path):
    folders = [result(runs, "many", "sft", f"{number:012x}", numbers={"steps": 1}) for number in range(8)]
    going = [removal(runs, [str(folder)]) for folder in folders]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda one: remove(runs, one), going))
    assert not any(folder.exists() for folder in folders)


def test_brackets_in_the_name_of_a_runs_folder_are_printed_as_they_are(runs: Path):
    odd = runs.parent / "q[" / "x][bold]"
    odd.parent.mkdir()
    runs.rename(odd)
    code, output = ft("rm", "mine:dpo", "--yes", "--runs", odd)
    assert code == 0
    assert str(odd) in output


@pytest.mark.parametrize("name", ["", " ", "a\udcffb"])
def test_a_runs_folder_without_a_name_that_can_be_written_down_is_refused(name: str):
    assert ft("--runs", name)[0] == 2
