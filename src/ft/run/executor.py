"""A stage's process: how it is started, what it is given, and with which exit code it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from pathlib import Path

from ft.models.device import cores
from ft.notices import ENVIRONMENT as QUIET
from ft.progress import LINES
from ft.recipe import Kind
from ft.run import fork_server
from ft.run.accelerate_config import ONE_PROCESS, Launch
from ft.run.distributed import Leader, follow, rank_environment, single_process_environment

ENDS_WITH_PARENT = "FT_STDIN_ENDS_WITH_PARENT"
THREADS = "OMP_NUM_THREADS"


class StageProcess:
    """A stage's process, or none where Ctrl-C came before there was one."""

    def __init__(self, process: subprocess.Popen[bytes] | BaseProcess | None):
        self.process = process

    def code(self) -> int:
        """Wait for it; its exit code."""
        if self.process is None:
            return 130
        interrupted = False
        while True:
            try:
                code = _wait(self.process)
            except KeyboardInterrupt:  # the child got it too and ends by itself
                interrupted = True
            else:
                return 130 if interrupted and code else code  # a launcher makes another code of it


def start_stage(
    job: Path, kind: Kind, launch: Launch, leader: Leader | None, kinds: Collection[Kind], count: int
) -> StageProcess:
    """Start a stage as a process of its own, or as several; `kinds` are those of all stages that this run makes, and
    `count` of them work at this time."""
    variables = share_threads(environment(), count)
    if (
        launch == ONE_PROCESS
        and not leader
        and fork_server.worth_it(kinds)
        and (process := _fork(job, variables, kinds))
    ):
        return process
    if launch.processes == 1 or not kind.trains:
        variables = single_process_environment(variables)
    elif leader:
        variables = rank_environment(variables, leader.tell(job))
    if launch.file and kind.trains:
        return _start_ft(["ranks", str(launch.file), str(job)], variables)
    return _start_ft(["stage", str(job)], variables)


def follow_leader() -> int:
    """One of several processes that `accelerate launch` has started, and not the first: start what that one tells."""
    return follow(lambda job, port: _start_ft(["stage", str(job)], rank_environment(environment(), port)).code())


def _start_ft(arguments: list[str], variables: dict[str, str]) -> StageProcess:
    command = [sys.executable, "-m", "ft", *arguments]
    return StageProcess(subprocess.Popen(command, env=variables, stdin=subprocess.PIPE))


def _fork(job: Path, variables: dict[str, str], kinds: Collection[Kind]) -> StageProcess | None:
    """The same from a process that has imported the libraries, or None where there can be none. Its stdin is closed: it
    watches who asked for it."""
    environments = [single_process_environment(values) for values in (variables, environment())]
    stage, server = ({k: v for k, v in values.items() if k != ENDS_WITH_PARENT} for values in environments)
    try:
        return StageProcess(fork_server.fork_stage(job, stage, server, kinds))
    except KeyboardInterrupt:
        return StageProcess(None)
    except (OSError, EOFError):  # no socket, no room for it
        return None


def _wait(process: subprocess.Popen[bytes] | BaseProcess) -> int:
    if isinstance(process, subprocess.Popen):
        return process.wait()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def environment() -> dict[str, str]:
    """A stage's: no telemetry and no notices of libraries, and its stdin ends with this process."""
    return {**QUIET, **os.environ, ENDS_WITH_PARENT: "1"}


def share_threads(variables: dict[str, str], stages: int) -> dict[str, str]:
    """The environment for one of several stages at once: its share of the threads, and lines in place of bars."""
    if stages == 1:
        return variables
    return variables | {THREADS: str(max(1, threads(variables) // stages)), LINES: "1"}


def threads(variables: dict[str, str]) -> int:
    """How many threads one stage would compute with: as the environment says, else one a core."""
    number = variables.get(THREADS, "").partition(",")[0]
    return int(number) if number.isdecimal() else cores()
