"""A stage's own process: it does the work and leaves the result."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.console import talk
from ft.data.sources.bytes import CHANGED
from ft.data.sources.read import file_hash
from ft.disk import disk_problem
from ft.errors import Problems, UserError, fail
from ft.files import sync_files, write_json
from ft.imports import uncollected
from ft.models.device import keep_freed_memory
from ft.models.generation.executor import use_engine
from ft.models.identity import check_model_bytes
from ft.models.processor import family_at
from ft.notices import quiet_bars
from ft.recipe import Kind
from ft.recipe.job import Job
from ft.recipe.kind import function_at
from ft.run.distributed import has_lost_another
from ft.run.executor import ENDS_WITH_PARENT
from ft.secret_files import clean, in_rows, refuse
from ft.stages import STAGES
from ft.training.trackers import record_result
from ft.versions import versions


def make_stage(job_file: Path) -> None:
    """A stage's own process: do the work, then write done.json, last and by rename."""
    job = Job.read(job_file)
    if os.environ.get(ENDS_WITH_PARENT):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    _import_libraries(STAGES[job.kind])
    quiet_bars()
    keep_freed_memory()
    start = time.monotonic()
    check_files(job)
    check_model_bytes(job)
    _check_family(job)
    try:
        with use_engine(job.engine, job.folder, job.where, STAGES[job.kind].trains):
            numbers = function_at(STAGES[job.kind].make)(job)
    except Exception as error:
        if problem := disk_problem(error, job.folder):
            raise UserError([problem]) from error
        if has_lost_another(error):
            talk.print(f"{job.name}: process {os.environ['RANK']} ends, because another one has ended")
            sys.exit(1)
        raise
    check_files(job)
    check_model_bytes(job)
    if os.environ.get("RANK", "0") != "0":
        return
    record_result(job, numbers)
    _no_secrets(job, numbers)
    from ft.models.device import describe

    done = {
        "stage": job.name,
        "kind": job.kind,
        "fingerprint": job.fingerprint,
        "numbers": numbers,
        "seconds": round(time.monotonic() - start, 1),
        "device": describe(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": versions(),
    }
    sync_files(job.folder)  # a loss of power may otherwise leave done.json, and weights that were never written
    write_json(job.folder / artifacts.DONE, done, durable=True)


def _check_family(job: Job) -> None:
    """A plan has asked the same of models whose config.json was there already."""
    kind = STAGES[job.kind]
    if (kind.families or kind.trains) and (job.init or job.model):
        family = family_at(job.model, job.init)
        Problems(family.problems(job.where, kind.families, job.blocks.get("train", {}))).raise_any()


def check_files(job: Job) -> None:
    """What was read is what the result is named by: banks and prompts are small, and hashed before and after."""
    for path, sha256 in job.files.items():
        if file_hash(Path(path), None) != sha256:
            raise fail(path, *CHANGED)


def _no_secrets(job: Job, numbers: Mapping[str, Any]) -> None:
    """What a stage wrote holds no token, or the stage does not count as made; tokens in rows are only told of."""
    problems = clean(job.folder)
    for problem in (p for p in problems if in_rows(p)):
        talk.print(f"{job.name}: {problem}", style="yellow")
    Problems(p for p in problems if not in_rows(p)).raise_any()
    refuse(str(job.folder / artifacts.DONE), numbers)


def _end_with_parent() -> None:
    """When `ft run` is killed, its end of our stdin closes: a stage left behind would write beside the next one."""
    while os.read(0, 1):
        continue
    os._exit(1)


def _import_libraries(kind: Kind) -> None:
    """What the stage will import, at once."""
    with uncollected():
        function_at(kind.make)
        if kind.trains:
            import ft.training.trl_compat  # noqa: F401  TRL's trainers take most of the time
