"""Trackers of experiments (`train: {report_to: …}`): a project for each recipe, a group for each runs folder, a run for
each stage.

A tracker is told by environment variables, which win where the user has set them. What it writes on this machine lies
in the stage's folder, and a stage that goes on after an interruption goes on in the same run.

To add one: an entry in TRACKERS.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.files import write_text
from ft.result import Result

Environment = Mapping[str, str]


@dataclass(frozen=True)
class Tracker:
    """What transformers' callback of a tracker reads, and how a person sees it.

    package      that must be installed
    environment  of the result it is about, and the id of its run there
    look         the command, or the place, where a result's curves are seen
    """

    package: str
    environment: Callable[[Result, str], Environment]
    look: Callable[[Result], str]


def _wandb(result: Result, run_id: str) -> Environment:
    return {
        "WANDB_PROJECT": result.recipe,
        "WANDB_RUN_GROUP": str(result.folder.parent),
        "WANDB_JOB_TYPE": result.stage,
        "WANDB_DIR": str(result.folder),
        "WANDB_RUN_ID": run_id,
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }


def _look_at_wandb(result: Result) -> str:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return f"wandb sync {result.folder}/wandb/offline-run-*"
    entity = os.environ.get("WANDB_ENTITY", "YOU")
    return f"https://wandb.ai/{entity}/{os.environ.get('WANDB_PROJECT', result.recipe)}"


TRACKERS = {
    "wandb": Tracker("wandb", _wandb, _look_at_wandb),
    "tensorboard": Tracker(
        "tensorboard",
        lambda result, run_id: {"TENSORBOARD_LOGGING_DIR": str(result.folder / "tensorboard")},
        lambda result: f"tensorboard --logdir {result.folder.parent}",
    ),
    "trackio": Tracker(
        "trackio",
        lambda result, run_id: {"TRACKIO_DIR": str(result.folder.parent / "trackio")},
        lambda result: f"TRACKIO_DIR={result.folder.parent / 'trackio'} trackio show --project {result.recipe}",
    ),
    "mlflow": Tracker(
        "mlflow",
        lambda result, run_id: {
            "MLFLOW_TRACKING_URI": f"sqlite:///{result.folder.parent / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": result.recipe,
        },
        lambda result: f"mlflow ui --backend-store-uri sqlite:///{result.folder.parent / 'mlflow.db'}",
    ),
}


def named_trackers(report_to: Any) -> list[str]:
    """Those that `train.report_to` names."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    return [name for name in names if name != "none"]


def tracker_arguments(folder: Path, train: Mapping[str, Any]) -> dict[str, str]:
    """What the trainer's arguments say of the run, and the environment for its trackers."""
    names = named_trackers(train.get("report_to"))
    if not names:
        return {}
    result = Result(folder)
    for name in names if os.environ.get("RANK", "0") == "0" else ():  # the others report nothing
        for variable, value in TRACKERS[name].environment(result, _run_id(folder)).items():
            os.environ.setdefault(variable, value)
    return {"run_name": train.get("run_name") or result.stage, "project": train.get("project") or result.recipe}


def _run_id(folder: Path) -> str:
    """The id of the tracker's run, which stays for as long as the folder does."""
    file = folder / artifacts.TRACKER_RUN
    if not file.exists():
        write_text(file, secrets.token_hex(8))
    return file.read_text(encoding="utf-8").strip()


def places_to_look(result: Result) -> Iterator[str]:
    """Where the curves of a result are seen, for each tracker it reports to."""
    for name in named_trackers(result.blocks.get("train", {}).get("report_to")):
        if name in TRACKERS:
            yield TRACKERS[name].look(result)


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(TRACKERS[name].package) is not None


def finish() -> None:
    """Let a tracker write down what it holds: a process that was forked ends without Python's exit handlers."""
    if (wandb := sys.modules.get("wandb")) and wandb.run is not None:
        wandb.finish()
    if mlflow := sys.modules.get("mlflow"):
        mlflow.end_run()
