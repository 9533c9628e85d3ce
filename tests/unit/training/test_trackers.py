"""Trackers get a project for each recipe and a run for each stage, in the stage's folder."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from ft import artifacts
from ft.files import write_lines
from ft.notices import ENVIRONMENT
from ft.recipe.job import Job
from ft.result import Result
from ft.training.trackers import TRACKERS, is_installed, record_result, sample_table, tracker_arguments

VARIABLES = ("WANDB_", "MLFLOW_", "TRACKIO_", "TENSORBOARD_")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage's process sets ends with it."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith(VARIABLES)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "my-chat" / "sft-0123456789ab"
    folder.mkdir(parents=True)
    return folder


def test_the_project_is_the_recipe_the_group_its_runs_and_the_name_the_stage(folder: Path):
    given = tracker_arguments(folder, {"report_to": list(TRACKERS)})
    assert given == {"run_name": "sft", "project": "my-chat"}
    assert (os.environ["WANDB_PROJECT"], os.environ["WANDB_RUN_GROUP"]) == ("my-chat", str(folder.parent))
    assert (os.environ["WANDB_DIR"], os.environ["TENSORBOARD_LOGGING_DIR"]) == (str(folder), f"{folder}/tensorboard")
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "my-chat"


def test_what_the_user_has_said_wins(folder: Path):
    os.environ["WANDB_PROJECT"] = "mine"
    given = tracker_arguments(folder, {"report_to": "wandb", "run_name": "try", "project": "other"})
    assert (os.environ["WANDB_PROJECT"], given) == ("mine", {"run_name": "try", "project": "other"})


def test_a_stage_goes_on_in_the_same_run_and_a_new_folder_begins_another(folder: Path):
    ids = []
    for place in (folder, folder, folder.with_name("sft-ba9876543210")):
        place.mkdir(exist_ok=True)
        os.environ.pop("WANDB_RUN_ID", None)
        tracker_arguments(place, {"report_to": "wandb"})
        ids.append(os.environ["WANDB_RUN_ID"])
    assert ids[0] == ids[1] != ids[2]


def test_without_a_tracker_nothing_is_set(folder: Path):
    assert tracker_arguments(folder, {"report_to": "none"}) == tracker_arguments(folder, {}) == {}
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A recipe's results, with every tracker that is installed and no network: a stage of 4 steps that was interrupted
    after step 2's checkpoint and went on, and the evaluation of its model."""
    folder = tmp_path_factory.mktemp("tracked")
    report_to = [name for name in TRACKERS if is_installed(name)]
    train = {"max_steps": 4, "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "report_to": report_to}
    evaluate = {"metrics": ["rouge1"], "baseline": False, "max_new_tokens": 2}
    stages = [
        tiny.sft(data, train),
        {"kind": "evaluate", "init": "$sft", "data": [{"path": str(data)}], "evaluate": evaluate},
    ]
    file = tiny.recipe(folder, stages, model=str(base))
    made = _make(file, "sft")
    (made / artifacts.DONE).unlink()
    shutil.rmtree(made / artifacts.CHECKPOINTS / "checkpoint-4")
    _make(file, "sft")
    _make(file, "evaluate")
    return made.parent


def _make(file: Path, stage: str) -> Path:
    """Made with the environment of a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        own = {k: v for k, v in os.environ.items() if not k.startswith(VARIABLES)}
        patch.setattr(os, "environ", {**own, **ENVIRONMENT, "WANDB_MODE": "offline"})
        made = tiny.make(tiny.planned(file, file.parent / "runs"), stage).folder
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # which remembers the environment
    return made


def _folder(tracked: Path, stage: str) -> Path:
    return next(tracked.glob(f"{stage}-*"))


def _run_id(tracked: Path, stage: str) -> str:
    return (_folder(tracked, stage) / artifacts.TRACKER_RUN).read_text(encoding="utf-8")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@needs("wandb")
def test_wandb_has_one_run_of_an_interrupted_stage_and_a_table_of_answers(tracked: Path):
    records = [next(_folder(tracked, stage).glob("wandb/offline-run-*/*.wandb")) for stage in ("sft", "evaluate")]
    files = sorted(_folder(tracked, "sft").glob("wandb/offline-run-*"))
    assert len(files) == 2  # one for each process; `wandb sync` joins those of one id
    assert {file.name.rpartition("-")[2] for file in files} == {_run_id(tracked, "sft")}
    assert b"train/loss" in records[0].read_bytes()
    (table,) = _folder(tracked, "evaluate").glob("wandb/offline-run-*/files/media/table/samples_*.table.json")
    assert json.loads(table.read_text(encoding="utf-8"))["columns"][:3] == ["messages", "completion", "score"]
    assert not Path("wandb").exists()


@needs("tensorboard")
def test_tensorboard_has_one_folder_of_an_interrupted_stage_and_a_text_of_answers(tracked: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(_folder(tracked, "sft") / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 3, 4]
    assert [event.value for event in events.Scalars("result/steps")] == [4, 4]
    events = EventAccumulator(str(_folder(tracked, "evaluate") / "tensorboard")).Reload()
    (text,) = events.Tensors("samples/text_summary")
    assert b"| messages | completion | score |" in text.tensor_proto.string_val[0]


@needs("trackio")
def test_trackio_has_one_run_of_an_interrupted_stage_and_a_table_of_answers(tracked: Path):
    from trackio.sqlite_storage import SQLiteStorage

    names = [f"{stage}-{_run_id(tracked, stage)[:6]}" for stage in ("sft", "evaluate")]
    assert sorted(run["name"] for run in SQLiteStorage.get_run_records(tracked.name)) == sorted(names)
    logs = {name: SQLiteStorage.get_logs(tracked.name, name) for name in names}
    steps = [log["train/global_step"] for log in logs[names[0]] if "train/loss" in log]
    assert steps == [1, 2, 3, 4, 3, 4]
    assert [log["result/steps"] for log in logs[names[0]] if "result/steps" in log] == [4, 4]
    (table,) = [log["samples"]["_value"] for log in logs[names[1]]]
    assert list(table[0])[:3] == ["messages", "completion", "score"]


@needs("mlflow")
def test_mlflow_has_one_run_of_an_interrupted_stage_and_a_table_of_answers(tracked: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracked.name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"sft": "FINISHED", "evaluate": "FINISHED"}
    sft, evaluate = runs["sft"], runs["evaluate"]
    steps = sorted(metric.step for metric in client.get_metric_history(sft.info.run_id, "loss"))
    assert steps == [1, 2, 3, 3, 4, 4]
    assert (sft.data.tags["group"], sft.data.metrics["result/steps"]) == (str(tracked), 4)
    (table,) = tracked.glob(f"mlflow-artifacts/{evaluate.info.run_id}/artifacts/samples.json")
    assert json.loads(table.read_text(encoding="utf-8"))["columns"][:3] == ["messages", "completion", "score"]
    assert not Path("mlruns").exists()


def test_every_tracker_says_where_its_curves_are_seen(folder: Path):
    assert all("my-chat" in tracker.look(Result(folder)) for tracker in TRACKERS.values())


def test_a_table_of_answers_holds_prompts_as_text_and_numbers_of_every_answer(folder: Path):
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "sky?"}]
    lines = [
        {"step": n, "prompt": prompt, "answer": "a|b", "rewards": {"help": None if n else 0.5}} for n in range(250)
    ]
    write_lines(folder / artifacts.ROLLOUTS, lines)
    table = sample_table(folder)
    assert table is not None
    assert table.columns == ["step", "prompt", "answer", "rewards/help"]
    assert table.rows[:2] == [
        [0, "system: be brief\nuser: sky?", "a|b", 0.5],
        [3, "system: be brief\nuser: sky?", "a|b", None],
    ]
    assert len(table.rows) == 84  # at most 100, evenly
    assert table.markdown.splitlines()[2] == "| 0 | system: be brief<br>user: sky? | a\\|b | 0.5 |"


def test_a_token_in_an_answer_is_masked_in_the_table(folder: Path):
    token = "hf_" + "aB3dE5gH7j" * 4
    write_lines(folder / artifacts.ANSWERS, [{"prompt": "say it", "completion": token}])
    assert token not in str(sample_table(folder))


def test_a_tracker_that_fails_loses_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """It is told of in a line."""
    job = Job("sft", "sft", "0123456789ab", folder, 1, "here", blocks={"train": {"report_to": ["wandb"]}})
    job.write()
    monkeypatch.setitem(TRACKERS, "wandb", replace(TRACKERS["wandb"], record=_unplugged))
    record_result(job, {"steps": 4})
    assert "sft: wandb took no numbers of the stage: no route to host" in capsys.readouterr().err


def _unplugged(*_: object) -> None:
    raise OSError("no route to host")
