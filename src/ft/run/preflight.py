"""What would stop a run an hour in, found before any work: trackers without a key, precision the machine lacks,
processes that machine or stage has no room for, tokens that a result would hold, and what a kind looks for itself
(`Kind.preflight`)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.errors import Problems, UserError
from ft.models.device import device_arguments, gpus
from ft.models.generation.ray_cluster import check_installed
from ft.recipe import Stage
from ft.recipe.engine import LOCAL, EngineOptions
from ft.recipe.kind import function_at
from ft.results.store import PlannedStage
from ft.run.accelerate_config import ONE_PROCESS, Launch, objections
from ft.secret_files import refuse
from ft.training.trackers import TRACKERS, is_installed, named_trackers


def preflight(
    todo: Sequence[PlannedStage], launch: Launch = ONE_PROCESS, engine: EngineOptions = LOCAL, where: str = "engine"
) -> None:
    """Raises UserError with everything that would stop one of these stages later."""
    problems = objections([planned.stage for planned in todo], launch)
    problems += tracker_problems(planned.stage for planned in todo)
    if engine.kind == "ray":
        _add_refusals(problems, check_installed, where)
    if any(planned.stage.kind.trains for planned in todo):
        _machine(launch, problems)
    for planned in todo:
        _add_refusals(problems, refuse, planned.stage.where, {**planned.key, **planned.stage.blocks})
        if planned.stage.kind.preflight:
            _add_refusals(problems, function_at(planned.stage.kind.preflight), planned.stage)
        train = planned.stage.blocks.get("train")
        if train is None:
            continue
        _same_processes(planned, launch, problems)
        _add_refusals(problems, device_arguments, train, planned.stage.where)
    problems.raise_any()


def _machine(launch: Launch, problems: Problems) -> None:
    """What the config asks of this machine."""
    count, place = launch.processes // launch.machines, launch.where("num_processes")
    if launch.file and launch.machines > 1:
        command = f"accelerate launch --config_file {launch.file} --machine_rank N -m ft run …"
        problems.add(launch.where("num_machines"), "several machines", f"Say on each of them: {command}")
    if launch.way.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        problems.add(launch.where("distributed_type"), "DeepSpeed is not installed", "pip install deepspeed")
    if launch.way in ("fsdp", "zero2", "zero3") and not gpus():
        fix = "Use recipes/accelerate/cpu-2.yaml to try out several processes here."
        problems.add(launch.where("distributed_type"), f"{launch.way} needs GPUs, and this machine has none", fix)
    elif 0 < gpus() < count:
        fix = f"Write {gpus() * launch.machines}."
        problems.add(place, f"num_processes is {count} a machine, and this one has {gpus()} GPUs", fix)


def _same_processes(planned: PlannedStage, launch: Launch, problems: Problems) -> None:
    """An interrupted run goes on with the global batch it began with."""
    processes = planned.result.job.get("processes", launch.processes)
    resumes = planned.state == "unfinished" and bool(planned.result.checkpoints)
    if resumes and processes != launch.processes and not planned.stage.global_batch:
        what = (
            f"'{planned.name}' was begun by {processes} processes, and {launch.processes} change its global batch size"
        )
        fix = f"Go on with {processes}, or begin anew: `--force {planned.name}`. `global_batch:` lets any number go on."
        problems.add(planned.stage.where, what, fix)


def _add_refusals(problems: Problems, check: Callable[..., object], *values: object) -> None:
    """Add what a check refuses to the problems that are told at once."""
    try:
        check(*values)
    except UserError as error:
        problems += error.problems


def tracker_problems(stages: Iterable[Stage]) -> Problems:
    """Trackers that are none, that are not installed, or that have no key or token."""
    problems = Problems()
    for stage in stages:
        for name in named_trackers(stage.blocks.get("train", {}).get("report_to")):
            _add_tracker(name, stage.blocks["train"], stage.where, problems)
    return problems


def _add_tracker(name: str, train: Mapping[str, Any], where: str, problems: Problems) -> None:
    if name not in TRACKERS:
        problems.add(where, f"train.report_to: '{name}'", f"There are: none, {', '.join(TRACKERS)}.")
    elif not is_installed(name):
        problems.add(where, f"train.report_to: {name} is not installed", f"pip install {TRACKERS[name].package}")
    elif name == "wandb" and not _wandb_can_log():
        fix = "Set WANDB_API_KEY, or WANDB_MODE=offline to keep the run on this machine."
        problems.add(where, "train.report_to: wandb has no key", fix)
    elif name == "trackio" and (space := _space_without_token(train)):
        fix = "Set HF_TOKEN, or leave the Space out to keep the run on this machine."
        problems.add(where, f"train.report_to: trackio has no token for the Space '{space}'", fix)


def _space_without_token(train: Mapping[str, Any]) -> str | None:
    """The Space that Trackio is to write to, where nobody is logged in to the Hub."""
    space = train.get("trackio_space_id") or os.environ.get("TRACKIO_SPACE_ID")
    if not space:
        return None
    from huggingface_hub import get_token

    return None if get_token() else str(space)


def _wandb_can_log() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.exists() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
