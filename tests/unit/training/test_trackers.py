"""Trackers get a project for each recipe and a run for each stage, in the stage's folder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import tiny
from ft.result import Result
from ft.training import trackers
from ft.training.trackers import TRACKERS, places_to_look, tracker_arguments


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage's process sets ends with it."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "my-chat" / "sft-0123456789ab"
    folder.mkdir(parents=True)
    return folder


def test_the_project_is_the_recipe_the_group_its_runs_and_the_name_the_stage(folder: Path):
    given = tracker_arguments(folder, {"report_to": ["wandb", "tensorboard", "trackio", "mlflow"]})
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


def test_real_trackers_record_a_stage_in_its_folder(tmp_path: Path, base: Path, data: Path):
    """wandb without network, and tensorboard where it is installed."""
    os.environ["WANDB_MODE"] = "offline"
    names = [name for name in ("wandb", "tensorboard") if importlib.util.find_spec(name)]
    made = tiny.trained(tmp_path, base, data, {"max_steps": 2, "logging_steps": 1, "report_to": names})
    trackers.finish()
    (record,) = made.folder.glob("wandb/offline-run-*/run-*.wandb")
    assert record.parent.name.endswith((made.folder / "tracker-run").read_text(encoding="utf-8"))
    assert b"train/loss" in record.read_bytes()
    if "tensorboard" in names:
        assert b"train/loss" in next(made.folder.glob("tensorboard/events.*")).read_bytes()
    looks = list(places_to_look(Result(made.folder)))
    assert looks[0] == f"wandb sync {made.folder}/wandb/offline-run-*"
    assert not Path("wandb").exists()


def test_every_tracker_says_where_its_curves_are_seen(folder: Path):
    assert all("my-chat" in tracker.look(Result(folder)) for tracker in TRACKERS.values())
