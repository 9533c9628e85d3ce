"""Kills of a stage whose answers Ray's actors compute: every row once, the same bytes, and nothing left behind.

    python benchmarks/ray_kills.py --runs DIR [--only WORDS]      # prints a table

400 answers are sampled without Ray first. Then, for each kill, `ft run … --engine ray` begins anew, what the kill names
is ended in the middle of the answers, and the same command is said again until it ends well. Kills of a node and of the
head are of a cluster of two nodes, which are two of Ray's on this machine. Only processes that this script started are
ended.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = f"""
model: {ROOT}/data/tiny/base
chat_template: {ROOT}/data/tiny/chat.jinja
stages:
  - kind: sample
    data: [{{path: {ROOT}/data/tiny/prompts.jsonl.gz, format: prompt, rows: 100}}]
    sample: {{samples: 4, rewards: {{answer: 1.0}}, max_new_tokens: 96, batch_size: 8}}
"""
NAMES = ("rows.jsonl", "samples.jsonl", "answers.jsonl")
MOST_SECONDS, MOST_RUNS = 240, 4

# In one actor, once: what a model does that needs more memory than there is. Python runs this file as it starts.
GREED = """
import os, sys, threading, time
def grow(flag):
    while "ft.models.generation.backends.local" not in sys.modules or "ray.actor" not in sys.modules:
        time.sleep(0.2)
    time.sleep(2)
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    held = []
    while True:
        held.append(b"x" * (64 << 20))
        time.sleep(0.02)
if any("default_worker.py" in part for part in sys.orig_argv):
    threading.Thread(target=grow, args=(os.environ["GREED_FLAG"],), daemon=True).start()
"""


def parents() -> dict[int, tuple[int, str, str]]:
    """Process → its parent, when it started, its command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(folder.name)] = int(fields[1]), fields[19], command
    return found


@dataclass
class Tree:
    """A process that was started here, and all that it has started."""

    process: subprocess.Popen[bytes]
    seen: dict[int, str] = field(default_factory=dict)

    def look(self) -> dict[int, str]:
        """Process → command of those that run. Whose parent has ended is known by having been seen before."""
        table = parents()
        own = {number for number, start in self.seen.items() if number in table and table[number][1] == start}
        own |= {self.process.pid} & table.keys()
        while below := {number for number, (parent, _, _) in table.items() if parent in own} - own:
            own |= below
        self.seen |= {number: table[number][1] for number in own}
        return {number: table[number][2] for number in own}

    def matching(self, words: str) -> list[int]:
        return sorted(number for number, command in self.look().items() if words in command)

    def end(self) -> None:
        for number in self.look():
            with_signal(number, signal.SIGKILL)
        self.process.wait()


def with_signal(process: int, sign: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, sign)


def started(command: list[str], log: Path, **environment: str) -> Tree:
    with log.open("ab") as out:
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
        options = {"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL, "start_new_session": True}
        return Tree(subprocess.Popen(command, env=environ, **options))


class Cluster:
    """Two nodes of Ray on this machine, with one core each and ports on loopback."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log, self.folder = folder / "cluster.log", tempfile.mkdtemp(prefix="ft-kills-", dir="/tmp")
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.start_head()
        self.node = self._start(f"--address={self.address}", "--node-ip-address=127.0.0.2")
        time.sleep(5)

    def start_head(self) -> None:
        port = self.address.rpartition(":")[2]
        words = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self.head = self._start(*words, "--node-ip-address=127.0.0.1")
        while subprocess.run(self._ray("status", f"--address={self.address}"), capture_output=True).returncode:
            assert self.head.process.poll() is None, f"no head: {self.log}"

    def _ray(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ray.scripts.scripts", *words]

    def _start(self, *words: str) -> Tree:
        usual = ("--num-cpus=1", "--disable-usage-stats", "--block")
        return started(self._ray("start", *words, *usual), self.log, RAY_object_store_memory=str(128 << 20))

    def actors(self) -> int:
        return len(self.head.matching("ray::InferenceActor") + self.node.matching("ray::InferenceActor"))

    def end(self) -> None:
        self.node.end()
        self.head.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        del os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]


@dataclass(frozen=True)
class Kill:
    """`strike` ends something of the run; `after` answers have come by then."""

    name: str
    strike: Callable[[Tree, Cluster | None], object]
    after: int = 100
    cluster: bool = False
    environment: Callable[[Path], dict[str, str]] = lambda folder: {}


def one(words: str, most: int = 1, sign: int = signal.SIGKILL) -> Callable[[Tree, Cluster | None], object]:
    """Of the processes whose command holds `words`."""

    def strike(run: Tree, cluster: Cluster | None) -> None:
        targets = run.matching(words)[:most]
        assert targets, f"nothing to end: {words}, {run.look()}"
        for target in targets:
            os.kill(target, sign)

    return strike


def greedy(folder: Path) -> dict[str, str]:
    """Room for 2 GiB more than this machine uses now, of which one actor takes all."""
    (folder / "greed").mkdir()
    (folder / "greed" / "sitecustomize.py").write_text(GREED, encoding="utf-8")
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    total, free = (int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    path = os.pathsep.join(filter(None, (str(folder / "greed"), os.environ.get("PYTHONPATH"))))
    share = (total - free + (2 << 20)) / total + 0.05
    return {
        "PYTHONPATH": path,
        "GREED_FLAG": str(folder / "greed" / "flag"),
        "RAY_memory_usage_threshold": f"{share:.3f}",
    }


def restart_head(run: Tree, cluster: Cluster | None) -> None:
    assert cluster
    cluster.head.end()
    cluster.start_head()


ACTOR, STAGE = "ray::InferenceActor", "ft stage"
KILLS = (
    Kill("an actor, at the beginning", one(ACTOR), after=1),
    Kill("an actor, in the middle", one(ACTOR), after=200),
    Kill("both actors", one(ACTOR, most=2)),
    Kill("an actor that takes all memory", lambda run, cluster: None, after=1, environment=greedy),
    Kill("the raylet", one("raylet/raylet")),
    Kill("the head (gcs_server)", one("gcs/gcs_server")),
    Kill("the stage", one(STAGE)),
    Kill("`ft run`", lambda run, cluster: run.process.kill()),
    Kill("Ctrl-C", lambda run, cluster: os.killpg(run.process.pid, signal.SIGINT)),  # as a terminal does
    Kill("a node of two", lambda run, cluster: cluster.node.end(), cluster=True),
    Kill("the head of two nodes, started again", restart_head, cluster=True),
    Kill("the head of two nodes, gone until the run has ended", lambda run, cluster: cluster.head.end(), cluster=True),
)


def answers(runs: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in runs.glob("*/sample-*/answers.jsonl"))


def rows(runs: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for folder in sorted(runs.glob("*/sample-*")) for name in NAMES]


def last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def measure(kill: Kill, folder: Path, recipe: Path, expected: list[bytes]) -> str:
    """A line of the table; a cluster of its own ends with it, whatever happens."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cluster = Cluster(folder) if kill.cluster else None
    try:
        return struck_run(kill, folder, recipe, expected, cluster)
    finally:
        if cluster:
            cluster.end()


def struck_run(kill: Kill, folder: Path, recipe: Path, expected: list[bytes], cluster: Cluster | None) -> str:
    before = set(Path("/tmp").glob("ft-ray-*"))
    engine = f"ray={cluster.address}" if cluster else "ray"
    command = [sys.executable, "-m", "ft", "run", str(recipe), "--runs", str(folder / "runs"), "--engine", engine]
    run, most = started(command, folder / "run-1.log", **kill.environment(folder)), time.monotonic() + MOST_SECONDS
    while (finished := answers(folder / "runs")) < kill.after:
        run.look()
        assert run.process.poll() is None, f"{kill.name}: it ended before, see {folder}"
        assert time.monotonic() < most, f"{kill.name}: no answer comes"
        time.sleep(0.05)
    run.look()
    struck = time.monotonic()
    kill.strike(run, cluster)
    while run.process.poll() is None and time.monotonic() < most:
        run.look()
        time.sleep(0.1)
    code, seconds = run.process.poll(), time.monotonic() - struck
    time.sleep(3)
    left = len(run.look()) + len(set(Path("/tmp").glob("ft-ray-*")) - before)
    if cluster:
        left += cluster.actors()
        if cluster.head.process.poll() is not None:
            cluster.start_head()
    run.end()
    count = 1
    while not list((folder / "runs").glob("*/sample-*/done.json")) and count < MOST_RUNS:
        count += 1
        again = started(command, folder / f"run-{count}.log")
        again.process.wait(MOST_SECONDS)
    same = "yes" if rows(folder / "runs") == expected else "NO"
    words = last_words(folder / "run-1.log")
    return f"| {kill.name} | {finished:,} | {code} after {seconds:.0f} s | {count} | {same} | {left} | {words} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", default="", help="kills whose name holds this")
    parser.add_argument("--skip", type=int, default=0, help="so many kills, from the first")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs would pass Ctrl-C over
    given.runs.mkdir(parents=True, exist_ok=True)
    recipe = given.runs.absolute() / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    local = given.runs.absolute() / "local"
    command = [sys.executable, "-m", "ft", "run", str(recipe), "--runs", str(local)]
    assert started(command, given.runs / "local.log").process.wait() == 0
    print("| killed | answers by then | exit code | runs in all | same bytes | left behind | its last words |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for number, kill in enumerate(KILLS):
        if number >= given.skip and given.only in kill.name:
            print(measure(kill, given.runs.absolute() / f"kill-{number}", recipe, rows(local)), flush=True)


if __name__ == "__main__":
    main()
