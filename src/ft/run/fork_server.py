"""Stages as forks of one process that has imported the libraries: they take ten seconds of every stage otherwise.

It is Python's own fork server. A stage stays a process of its own: started with the same command line and environment,
ended by the same signals, and its exit code is its own. On a machine with a GPU stages start cold, because a driver
that a library has merely asked does not survive a fork.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import connection, forkserver, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path

from ft.recipe import Kind

ACCELERATORS = ("nvidia*", "kfd", "dxg", "accel*", "dri/render*")  # under /dev
ALWAYS = ("torch", "transformers", "transformers.models.auto.modeling_auto")
TRAINING = ("ft.training.trl_compat",)


def worth_it(kinds: Collection[Kind]) -> bool:
    """Whether stages of these kinds, one after the other, shall be forks of one process."""
    return len(kinds) > 1 and sys.platform == "linux" and not has_accelerator()


def has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Whether a driver shows a GPU, found out without asking a library. `CUDA_VISIBLE_DEVICES=""` hides NVIDIA's."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    patterns = [pattern for pattern in ACCELERATORS if not (hidden and pattern == "nvidia*")]
    return any(any(devices.glob(pattern)) for pattern in patterns)


def fork_stage(
    job: Path, variables: Mapping[str, str], server: Mapping[str, str], kinds: Collection[Kind]
) -> BaseProcess:
    """`ft stage JOB`, started with the environment `variables`. The first start makes the `server`, which imports what
    stages of `kinds` will; it is waited for. Raises OSError or EOFError where no stage can be started so."""
    trained = TRAINING if any(kind.trains for kind in kinds) else ()
    names = (*ALWAYS, *trained, *sorted({kind.make.partition(":")[0] for kind in kinds}))
    context = get_context("forkserver")
    context.set_forkserver_preload(["ft.run.preload"])
    resource_tracker.ensure_running()  # which else is started with the server, and lets Ctrl-C through again
    with _environment({**server, "FT_PRELOAD": " ".join(names)}), _ctrl_c_blocked():
        forkserver.ensure_running()
    process = context.Process(target=_stage, args=(str(job), dict(variables)))
    process.start()
    return process


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Libraries read theirs while they are imported, so the server must have it from its start."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Who is started here ignores Ctrl-C while it imports: it is the stage's, and ft's own, to end by it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stage(job: str, environment: Mapping[str, str]) -> None:
    """The stage's own process, from here on as if `python -m ft stage JOB` had begun."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):  # OpenMP has read the server's
        import torch

        torch.set_num_threads(int(threads.partition(",")[0]))
    sys.argv = ["ft", "stage", job]
    runpy.run_module("ft", run_name="__main__")


def _end_with_parent() -> None:
    """When `ft run` is killed, a stage left behind would write beside the next one."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
