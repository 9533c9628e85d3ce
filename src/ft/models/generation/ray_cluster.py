"""A cluster of Ray: one that runs under an address, or one on this machine that ends with the stage."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import UserError, fail
from ft.models.device import cores
from ft.models.generation import ray_reaper
from ft.progress import waiting
from ft.recipe.engine import EngineOptions

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # on by default
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would upload the working directory to the cluster
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints a page on stdout for each actor that ends; ft says it in one line
}
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # in spite of its name what binds every port to loopback, on Linux too
    "RAY_worker_niceness": "0",  # actors would else give way to everything on this machine, by 15
    "RAY_prestart_worker_first_driver": "0",  # a process a core, where actors are few
    "RAY_AUTH_MODE": "token",  # other users of this machine reach loopback as well
}
ALL_GPUS = "FT_ALL_GPUS"
"""CUDA_VISIBLE_DEVICES as a stage's process would have it if it did not compute on the first GPU alone; or all."""
OBJECT_STORE = 256 << 20  # bytes; only batches of requests and answers stand in it
SECONDS_BETWEEN_LOOKS = 5.0
SILENCE = 20.0
"""Seconds without a sign of the head before it counts as gone. Ray itself ends this process after a minute."""
INSTALL = "pip install 'ft[ray]'"


def check_installed(where: str) -> None:
    """Raises UserError where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        raise fail(where, "Ray is not installed", f"{INSTALL}, or leave the engine out.")


class RayCluster:
    """Connected at `start`. `folder` is the stage's, where logs go.

    actors   how many there is room for, or as many as are asked for
    """

    def __init__(self, options: EngineOptions, folder: Path, where: str, trains: bool = False):
        check_installed(where)
        self.options, self.folder, self.where, self.trains = options, folder, where, trains
        self.actors = 0
        self.gpus = 0.0
        self.temporary: Path | None = None
        self._head: tuple[str, int] | None = None
        self._node = ""
        self._heard = time.monotonic()
        self._reaper: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises UserError where no cluster answers, or none of its nodes has room for an actor."""
        import_environment(local=self.options.address is None)
        import ray

        if ray.is_initialized():
            return
        try:
            with waiting(f"starting Ray on {self.options.place}"):
                self._connect()
        except BaseException:
            self.close()
            raise
        address, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
        self._head, self._heard = (address.strip("[]"), int(port)), time.monotonic()
        self._node = ray.get_runtime_context().get_node_id()
        self._count_actors(ray.cluster_resources())

    def _connect(self) -> None:
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        if self.options.address is not None:
            self._reachable(self.options.address)
            try:
                ray.init(address=self.options.address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise self._unreachable(self.options.address, str(error)) from error
            return
        # A path of a socket has 107 bytes, and a stage's folder leaves too few of them for Ray's.
        temporary = Path(tempfile.mkdtemp(prefix="ft-ray-", dir="/tmp"))
        self.temporary = temporary
        self._reaper = start_reaper(temporary, self.folder / artifacts.RAY_LOGS)
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        cpus = max(cores(), (self.options.actors or 1) * self.options.cpus)
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        with self._gpus_visible():
            ray.init(num_cpus=cpus, _temp_dir=str(temporary), **quiet)

    @contextmanager
    def _gpus_visible(self) -> Iterator[None]:
        """What is started meanwhile sees the GPUs that a stage's process is kept from: all, or where it trains those
        that it does not train on. Raises UserError where there is none left."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = os.environ.get(ALL_GPUS, "all" if visible is None else visible)
        gpus = [str(n) for n in range(_count_gpus())] if every == "all" else [name for name in every.split(",") if name]
        if self.trains and len(gpus) == 1:
            fix = "Write `train: {precompute_ref_log_probs: true}`."
            raise fail(self.where, "the only GPU trains, and none is left for the reference", fix)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[1:] if self.trains else gpus)
        try:
            yield
        finally:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            os.environ |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    def _reachable(self, address: str) -> None:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            if address == "auto":
                return
            raise fail(self.where, f"engine address '{address}' is none", "Write it as 10.0.0.1:6379, or auto.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            raise self._unreachable(address, error.strerror or str(error)) from error

    def _unreachable(self, address: str, why: str) -> UserError:
        fix = "Start it with `ray start --head` there, and see that this machine has its token (docs/scale.md)."
        return fail(self.where, f"no Ray cluster answers at {address}: {why}", fix)

    def _count_actors(self, resources: Mapping[str, float]) -> None:
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        self.gpus = self.options.gpus if self.options.gpus is not None else float(gpus > 0)
        room = self._room(resources)
        if room < 1:
            what = f"no actor fits: each needs {self.options.cpus} CPUs and {self.gpus:g} GPUs"
            what += f", and {self.options.place} has {cpus:g} and {gpus:g}"
            raise fail(self.where, what, "Lower engine.cpus or engine.gpus.")
        self.actors = self.options.actors or room
        if self.actors > room:
            log.warning("engine: %d actors are asked for, and there is room for %d; the others wait", self.actors, room)

    def check_alive(self) -> None:
        """Raises UserError where nothing has been heard of the head for long, or no node computes any more: Ray itself
        would wait for one for ever."""
        if self._head is None or time.monotonic() - self._heard < SECONDS_BETWEEN_LOOKS:
            return
        problem = self._problem(self._head)
        if problem is None:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > SILENCE:
            fix = "What is computed is kept. Start it again, and the same command continues."
            raise fail(self.where, problem, fix)

    def _problem(self, head: tuple[str, int]) -> str | None:
        """What is wrong with the cluster now."""
        import ray

        try:
            socket.create_connection(head, timeout=1).close()
        except OSError:
            return f"the head of the Ray cluster at {head[0]}:{head[1]} is gone"
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if self._node not in [node["NodeID"] for node in nodes]:
            return "the node of the Ray cluster that this process is part of is gone"
        if not any(self._room(node["Resources"]) for node in nodes):
            return f"no node of {self.options.place} has room for an actor any more"
        return None

    def _room(self, resources: Mapping[str, float]) -> int:
        """For how many actors."""
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        return int(min([cpus // self.options.cpus, *([gpus // self.gpus] if self.gpus else [])]))

    def close(self) -> None:
        """Leave the cluster; what was started here ends, and its logs go to the stage's folder."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()
        if self._reaper:
            self._reaper.communicate()
        self._head = self._reaper = None


def _count_gpus() -> int:
    """NVIDIA's on this machine, without a library that would take hold of one."""
    return len([*Path("/dev").glob("nvidia[0-9]*")])


def import_environment(local: bool) -> None:
    """What Ray reads while it is imported."""
    os.environ |= ENVIRONMENT | (LOCAL_ENVIRONMENT if local else {})
    if not local and (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` does; `ray.init` asks for it to be said


def start_reaper(temporary: Path, logs: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C does not end it first."""
    command = [sys.executable, "-I", "-S", str(ray_reaper.__file__), str(temporary), str(logs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
