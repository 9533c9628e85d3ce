"""Making what a plan lacks: what is made, what is refused, what is left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.recipe import Verdicts, read
from ft.results.locks import hold_result
from ft.results.set_aside import restore
from ft.results.store import plan
from ft.run import run as run_module
from ft.run.accelerate_config import ONE_PROCESS, Launch
from ft.run.rows import prepare_rows
from ft.run.run import StageFailed, run, side_by_side
from ft.stages import STAGES
from wording import Like


@pytest.fixture
def chain(tmp_path, base, data) -> Path:
    """first → judge → second, and a third that starts anew."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "1 sky?", "answer": "blue"}\n', encoding="utf-8")
    asked = {"data": [{"path": str(questions), "format": "prompt"}], "evaluate": {"max_new_tokens": 4}}
    stages = [
        tiny.sft(data, {"max_steps": 1}, name="first"),
        {"kind": "evaluate", "name": "judge", "init": "$first", **asked},
        tiny.sft(data, name="second", init="$first"),
        tiny.sft(data, name="third"),
    ]
    return tiny.recipe(tmp_path / "recipes", stages, model=str(base))


def finish(file: Path, runs: Path, **numbers: dict[str, float]) -> dict[str, Path]:
    """Folders as finished stages leave them, with these numbers."""
    there = tiny.planned(file, runs)
    for name, values in numbers.items():
        write_json(there.stage(name).folder / "done.json", {"numbers": values})
    return {p.name: p.folder for p in there.stages}


def remember(file: Path, runs: Path) -> None:
    """The recipe is found right, as by an earlier command: libraries that check its blocks are not imported again."""
    read(file, STAGES, (), Verdicts(runs / ".cache" / "checked.json"))


def contents(runs: Path) -> list[str]:
    return sorted(str(p.relative_to(runs)) for p in runs.rglob("*") if p.is_file() and ".cache" not in p.parts)


def test_a_chain_is_made_as_far_as_asked_and_told_as_json(chain, tmp_path):
    """By the command, a process a stage; the first is made already, since importing TRL takes long."""
    runs = tmp_path / "runs"
    text = chain.read_text(encoding="utf-8")
    judge = text[text.index("- kind: evaluate") : text.index("- kind: sft", text.index("- kind: evaluate"))]
    chain.write_text(text.replace(judge, judge + judge.replace("name: judge", "name: again")), encoding="utf-8")
    remember(chain, runs)
    tiny.make(tiny.planned(chain, runs), "first")
    command = [sys.executable, "-m", "ft", "run", str(chain), "--to", "first", "--json", "--runs", str(runs)]
    made = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert [stage["stage"] for stage in told] == ["first", "judge", "again"]
    assert told[0]["steps"] == 1
    assert 0 <= told[1]["answer"] == told[2]["answer"] <= 1
    assert [p.state for p in tiny.planned(chain, runs).stages] == ["done", "done", "done", "absent", "absent"]


def test_done_is_written_last(tmp_path, base, data):
    folder = tiny.trained(tmp_path, base, data, {"max_steps": 1, "save_strategy": "steps"}).folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert max(files, key=lambda path: path.stat().st_mtime_ns) == folder / "done.json"
    done = read_json(folder / "done.json")
    assert list(done) == ["stage", "kind", "fingerprint", "numbers", "seconds", "device", "processes", "versions"]
    assert folder.name == f"sft-{done['fingerprint']}"


def test_a_finished_recipe_is_run_again_without_torch(chain, tmp_path):
    runs = tmp_path / "runs"
    remember(chain, runs)
    finish(chain, runs, first={}, judge={"answer": 0.5}, second={}, third={})
    before = contents(runs)
    script = "import sys; from ft.cli import app; app(standalone_mode=False); print(sorted(sys.modules))"
    command = [sys.executable, "-c", script, "run", str(chain), "--runs", str(runs)]
    again = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=True)
    modules = again.stdout.splitlines()[-1]
    assert "'ft.run.run'" in modules
    assert [name for name in ("torch", "transformers", "trl", "peft", "datasets") if f"'{name}'" in modules] == []
    assert contents(runs) == sorted([*before, "index.html", "recipes-tiny/report.html"])  # it had none


def test_a_result_below_its_requirement_stops_the_chain_every_time(chain, tmp_path):
    runs = tmp_path / "runs"
    recipe = tiny.checked(chain, ["judge.require={answer: 0.5}"])
    finish(chain, runs, first={}, judge={"answer": 0.25})
    for _ in range(2):
        with pytest.raises(StageFailed) as stopped:
            run(recipe, runs)
        assert str(stopped.value) == Like("judge: answer … 0.25 … requires 0.5 …")
    assert contents(runs) == [
        f"recipes-tiny/{tiny.planned(chain, runs).stage(name).folder.name}/done.json" for name in ("first", "judge")
    ]


@pytest.mark.parametrize("written", ["NaN", "Infinity", '"good"'])
def test_what_is_no_finite_number_meets_no_requirement(written, chain, tmp_path):
    """An earlier version wrote the loss of a run that had diverged into done.json as it was."""
    runs = tmp_path / "runs"
    finish(chain, runs, first={}, judge={"answer": 0.25})
    done = tiny.planned(chain, runs).stage("judge").folder / "done.json"
    done.write_text(done.read_text(encoding="utf-8").replace("0.25", written), encoding="utf-8")
    with pytest.raises(StageFailed, match="The run stops here"):
        run(tiny.checked(chain, ["judge.require={answer: 0.5}"]), runs)


def test_a_result_that_reaches_its_requirement_lets_the_chain_go_on(chain, tmp_path):
    runs = tmp_path / "runs"
    finish(chain, runs, first={}, judge={"answer": 0.5}, second={}, third={})
    there = run(tiny.checked(chain, ["judge.require={answer: 0.5}"]), runs)
    assert [p.state for p in there.stages] == ["done"] * 4


def test_a_requirement_on_a_metric_that_is_not_there_is_refused(chain, tmp_path):
    runs = tmp_path / "runs"
    finish(chain, runs, first={}, judge={"answer": 0.5, "by": {}})
    with pytest.raises(UserError) as refused:
        run(tiny.checked(chain, ["judge.require={anwser: 0.5}"]), runs)
    where = tiny.checked(chain).stage("judge").where
    assert str(refused.value) == Like(f"{where}: require … 'anwser' …")


def test_one_stage_alone_needs_its_parents_made(chain, tmp_path):
    with pytest.raises(UserError) as refused:
        run(tiny.checked(chain), tmp_path / "runs", only="second")
    where = tiny.checked(chain).stage("second").where
    assert str(refused.value) == Like(f"{where}: 'second' … --only …")
    assert contents(tmp_path / "runs") == []


def test_force_sets_a_result_and_all_made_from_it_aside_and_deletes_nothing(chain, tmp_path):
    runs = tmp_path / "runs"
    folders = finish(chain, runs, first={}, judge={}, second={}, third={})
    (folders["first"] / "model.safetensors").write_text("weights", encoding="utf-8")
    run(tiny.checked(chain), runs, force=["first"], only="third")
    names = {name: folder.name for name, folder in folders.items()}
    assert contents(runs) == sorted(
        [
            f"recipes-tiny/{names['first']}.old-1/done.json",
            f"recipes-tiny/{names['first']}.old-1/model.safetensors",
            f"recipes-tiny/{names['judge']}.old-1/done.json",
            f"recipes-tiny/{names['second']}.old-1/done.json",
            f"recipes-tiny/{names['third']}/done.json",
        ]
    )
    assert [p.why for p in tiny.planned(chain, runs).stages] == ["set aside by --force"] * 3 + [""]


def test_force_again_keeps_what_was_set_aside_before(chain, tmp_path):
    runs = tmp_path / "runs"
    for _ in range(2):
        folders = finish(chain, runs, third={}, first={})
        run(tiny.checked(chain), runs, force=["third"], only="first")
    third = folders["third"].name
    assert [name for name in contents(runs) if "third" in name] == [
        f"recipes-tiny/{third}.old-1/done.json",
        f"recipes-tiny/{third}.old-2/done.json",
    ]


@pytest.mark.parametrize("force", [(), ("third",)])
def test_two_runs_at_once_of_one_result_are_refused(force, chain, tmp_path):
    runs = tmp_path / "runs"
    folder = tiny.planned(chain, runs).stage("third").folder
    folder.mkdir(parents=True)
    with hold_result(runs, folder), pytest.raises(UserError) as refused:
        run(tiny.checked(chain), runs, only="third", force=force)
    assert str(refused.value) == Like(f"{folder}: another `ft run` …")
    assert contents(runs) == []


def test_what_another_command_has_finished_since_the_plan_is_not_made_again(chain, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    finish(chain, runs, first={}, judge={"answer": 0.5}, second={})
    prepare = run_module.hold_result

    def finish_third(*place: Path) -> Any:
        """Another command was at it, and has let go of its lock."""
        finish(chain, runs, third={"steps": 1})
        return prepare(*place)

    monkeypatch.setattr(run_module, "hold_result", finish_third)
    there = run(tiny.checked(chain), runs)
    assert there.stage("third").result.numbers == {"steps": 1}
    assert not (there.stage("third").folder / "job.json").exists()


def test_force_sets_nothing_aside_while_another_stage_reads_it(chain, tmp_path):
    runs = tmp_path / "runs"
    folders = finish(chain, runs, first={})
    second = tiny.planned(chain, runs).stage("second")
    write_json(second.folder / "key.json", second.key)
    with hold_result(runs, folders["second"]), pytest.raises(UserError, match="is being made now"):
        run(tiny.checked(chain), runs, force=["first"], only="first")
    assert tiny.planned(chain, runs).stage("first").state == "done"


def test_force_sets_nothing_aside_where_the_run_is_refused(chain, tmp_path):
    runs = tmp_path / "runs"
    finish(chain, runs, first={}, second={})
    with pytest.raises(UserError, match="needs first"):
        run(tiny.checked(chain), runs, force=["first"], only="second")
    with pytest.raises(UserError, match="no stage 'thrid'"):
        run(tiny.checked(chain), runs, force=["first", "thrid"])
    with pytest.raises(UserError, match="wandb"):
        run(tiny.checked(chain, ["first.train.report_to=wandbb"]), runs, force=["first"], only="first")
    assert [tiny.planned(chain, runs).stage(name).state for name in ("first", "second")] == ["done", "done"]


def test_force_sets_nothing_aside_where_rows_are_refused(chain, tmp_path):
    runs, rows = tmp_path / "runs", tmp_path / "rows.jsonl"
    rows.write_text('{"messages": "none"}\n', encoding="utf-8")
    refused_rows = f'first.data=[{{"path": "{rows}", "format": "messages"}}]'
    recipe = tiny.checked(chain, [refused_rows])
    for name in ("first", "second"):
        write_json(plan(recipe, runs).stage(name).folder / "done.json", {"numbers": {}})
    with pytest.raises(UserError, match=r"rows\.jsonl:1"):
        run(recipe, runs, force=["first"], only="first")
    assert [plan(recipe, runs).stage(name).state for name in ("first", "second")] == ["done", "done"]


def test_force_says_what_it_sets_aside_and_the_command_that_brings_it_back(chain, tmp_path, capfd):
    runs = tmp_path / "runs"
    folders = finish(chain, runs, first={}, second={}, third={"steps": 3})
    run(tiny.checked(chain), runs, force=["third"], only="first")
    moved = f"{folders['third']}.old-1"
    said = capfd.readouterr().err
    assert f"set aside: {moved}\n" in said
    command = next(line for line in said.splitlines() if "ft runs restore" in line).partition("ft runs restore ")[2]
    assert command.split() == [moved, "--runs", str(runs)]
    finish(chain, runs, third={"steps": 4})
    newer = Path(f"{folders['third']}.old-2")
    assert restore(runs, [moved]) == [(folders["third"], newer)]
    assert tiny.planned(chain, runs).stage("third").result.numbers == {"steps": 3}
    assert read_json(newer / "done.json") == {"numbers": {"steps": 4}}


def test_force_takes_a_free_name_where_an_earlier_one_was_removed(chain, tmp_path):
    runs = tmp_path / "runs"
    for _ in range(2):
        folders = finish(chain, runs, third={}, first={})
        run(tiny.checked(chain), runs, force=["third"], only="first")
    shutil.rmtree(folders["third"].with_name(f"{folders['third'].name}.old-1"))
    finish(chain, runs, third={})
    run(tiny.checked(chain), runs, force=["third"], only="first")
    assert len([name for name in contents(runs) if "third" in name]) == 2


def test_rows_are_prepared_once(chain, tmp_path, capfd):
    runs = tmp_path / "runs"
    there = tiny.planned(chain, runs)
    for name in ("second", "third", "second"):
        prepare_rows(there, there.stage(name))
    said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert said == ["second: 32 rows, 184 of 1,070 tokens in the loss"]


def test_rows_left_half_prepared_by_a_kill_are_cleared_away(chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    prepare_rows(there, there.stage("third"))
    (whole,) = (tmp_path / "runs" / ".cache").glob("rows-*")
    left = whole.with_name(f".{whole.name}.12345")
    whole.rename(left)
    prepare_rows(there, there.stage("third"))
    assert (whole / "stats.json").exists()
    assert not left.exists()


def test_a_stage_that_refuses_says_why_and_exits_with_2(tmp_path, base):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "1 sky?"}\n', encoding="utf-8")
    asked = {"data": [{"path": str(questions), "format": "prompt"}], "evaluate": {"reward": "answer"}}
    file = tiny.recipe(tmp_path, [{"kind": "evaluate", **asked}], model=str(base))
    remember(file, tmp_path / "runs")
    command = [sys.executable, "-m", "ft", "run", str(file), "--runs", str(tmp_path / "runs")]
    refused = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    problem = "the reward 'answer' reads the column 'answer'. Give the row one."
    assert refused.stderr.splitlines()[-1] == f"{questions}:1: {problem}"
    assert "Traceback" not in refused.stderr


def test_stages_that_need_nothing_of_each_other_are_made_side_by_side(chain, tmp_path):
    def together(most: int, **made: dict[str, float]) -> list[str]:
        finish(chain, tmp_path / "runs", **made)
        there = tiny.planned(chain, tmp_path / "runs")
        todo = [planned for planned in there.stages if planned.state != "done"]
        return [planned.name for planned in side_by_side(there, todo, most)]

    assert together(9) == ["first"]  # the others are made from it
    assert together(9, first={}) == ["judge", "second", "third"]
    assert together(2) == ["judge", "second"]
    assert together(1) == ["judge"]


def test_no_stage_is_made_beside_one_that_has_a_requirement(chain, tmp_path):
    finish(chain, tmp_path / "runs", first={})
    there = plan(tiny.checked(chain, ["judge.require={answer: 0.5}"]), tmp_path / "runs")
    assert [planned.name for planned in side_by_side(there, there.stages[1:], 9)] == ["judge"]


@pytest.mark.parametrize(("gpu", "launch"), [(True, ONE_PROCESS), (False, Launch(processes=2))])
def test_jobs_take_turns_where_one_stage_needs_the_machine(gpu, launch, monkeypatch, capfd):
    monkeypatch.setattr(run_module, "has_accelerator", lambda: gpu)
    assert run_module.at_once(2, launch) == 1
    assert capfd.readouterr().err == "one stage at a time: --jobs is for stages that share a CPU\n"
    assert run_module.at_once(1, launch) == 1
    assert capfd.readouterr().err == ""


def test_jobs_share_a_cpu(monkeypatch):
    monkeypatch.setattr(run_module, "has_accelerator", lambda: False)
    assert run_module.at_once(2, ONE_PROCESS) == 2


def test_a_locale_of_another_encoding_changes_nothing(tmp_path, base, data):
    file = tiny.recipe(tmp_path / "été", [tiny.sft(data)], model=str(base))
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # Python would mend LC_ALL=C alone
    command = [sys.executable, "-m", "ft", "plan", str(file), "--runs", str(tmp_path / "runs")]
    planned = [
        subprocess.run(command, env={**tiny.environment(), **more}, capture_output=True, check=False)
        for more in ({"PYTHONUTF8": "1"}, ascii_only)
    ]
    assert planned[0].returncode == planned[1].returncode == 0, planned[1].stderr
    assert planned[0].stdout == planned[1].stdout
