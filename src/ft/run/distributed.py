"""A stage's processes: started under accelerate, watched, and told what to do where the user started them.

Two ways lead here. `ft run --launch CONFIG` prepares rows and then starts `ft ranks`, which starts a stage's processes
and says which of them ended badly. Under `accelerate launch -m ft run` every process is an `ft run`: the first one
decides and prepares, the others follow it over the launcher's own store, which waits as long as it takes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from ft.errors import fail
from ft.files import digest
from ft.imports import uncollected
from ft.models.generation.ray_cluster import ALL_GPUS
from ft.recipe.job import Job

RANK_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=30)
ENDED_BY_US = (signal.SIGTERM, signal.SIGINT)
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # gloo's words and NCCL's


def is_launched() -> bool:
    """Whether `accelerate launch` or torchrun has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether another of these processes decides what is made."""
    return is_launched() and os.environ["RANK"] != "0"


def single_process_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment for one process that works by itself, on the first GPU: TRL refuses to spread over several."""
    apart = {key: value for key, value in environment.items() if key not in RANK_NAMES}
    first = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    apart.setdefault(ALL_GPUS, environment.get("CUDA_VISIBLE_DEVICES", "all"))
    return {k: v for k, v in apart.items() if not k.startswith("TORCHELASTIC_")} | {"CUDA_VISIBLE_DEVICES": first}


def rank_environment(environment: dict[str, str], port: int) -> dict[str, str]:
    """An environment for one of several processes of a stage: they meet at a port of their own, since the launcher's
    store still holds what the stage before wrote."""
    return environment | {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def has_lost_another(error: Exception) -> bool:
    """Whether a collective failed because another process of the stage has ended, which has said why or was killed."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(words in str(error) for words in LOST)


class Leader:
    """The first of several processes: tells the others which stage to start. Without others it tells nobody."""

    def __init__(self, store: Any):
        self.store, self.orders = store, 0

    def tell(self, job: Path) -> int:
        """Let every other process start this job; the port at which all of them meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = int(free.getsockname()[1])
        self._send({"job": str(job), "digest": digest(job.read_text(encoding="utf-8")), "port": port})
        return port

    def _send(self, order: dict[str, Any]) -> None:
        self.store.set(f"ft/{self.orders}", json.dumps(order))
        self.orders += 1

    def end(self) -> None:
        self._send({})


@contextmanager
def leading() -> Iterator[Leader | None]:
    """The leader, when there are others to lead; they are let go at the end, however that comes."""
    if not is_launched():
        yield None
        return
    leader = Leader(_store())
    try:
        yield leader
    finally:
        leader.end()


def follow(start: Callable[[Path, int], int]) -> int:
    """Start each stage that the leader tells, and wait for the next; the exit code of the first that failed, or 0."""
    store, orders = _store(), 0
    while order := json.loads(store.get(f"ft/{orders}")):
        job = Path(order["job"])
        if not job.exists() or digest(job.read_text(encoding="utf-8")) != order["digest"]:
            fix = "Give `--runs` a folder that all machines share under the same path."
            raise fail(str(job), "this machine does not see what the first one has written", fix)
        if code := start(job, order["port"]):
            return code
        orders += 1
    return 0


def _store() -> Any:
    """A client of the store that the launcher keeps on the first machine."""
    from torch.distributed import TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=PATIENCE)


def start_ranks(config: Path, job: Path) -> int:
    """Start a stage's processes by an accelerate config and wait for them; the exit code, the reason on stderr."""
    from subprocess import CalledProcessError

    with uncollected():
        from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # said below, in a line
    arguments = ["--config_file", str(config), "-m", "ft", "stage", str(job)]
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        return exit_code_of_ranks(
            {rank: failure.exitcode for rank, failure in error.failures.items()}, Job.read(job).name
        )
    except CalledProcessError as error:  # a config of one process
        return error.returncode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def exit_code_of_ranks(codes: dict[int, int], name: str) -> int:
    """Say which process was killed; what refused (2) or failed has said why itself. Others were ended because of it."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code not in ENDED_BY_US}
    for rank, number in killed.items():
        print(f"{name}: {killed_by(number, f'process {rank}')}", file=sys.stderr)
    return 1 if killed else 2 if 2 in codes.values() else 1


def killed_by(number: int, who: str = "its process") -> str:
    """'process 1 was killed by SIGKILL (out of memory, or from outside)'"""
    hint = " (out of memory, or from outside)" if number == signal.SIGKILL else ""
    return f"{who} was killed by {signal.Signals(number).name}{hint}"
