"""Random chains, killed at random moments and started again until they end: the same bits as undisturbed.

    python tests/faults/kill_loop.py --minutes 60 --seed 0            # `ft run`, killed as a terminal's window is
    python tests/faults/kill_loop.py --minutes 60 --seed 0 --changes  # killed at the n-th change of a file, n at random

Prints a line a chain; a chain that ends otherwise keeps its folder, and its seed makes it again.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
from faults.chains import differences, make_chain, outcome, write_chain

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Python's audit events that change files; an `open` counts where it writes."""


def changes_files(event: str, given: tuple[object, ...], runs: str) -> bool:
    if event not in CHANGES or not str(given[0]).startswith(runs):
        return False
    return event != "open" or (isinstance(given[2], int) and bool(given[2] & (os.O_WRONLY | os.O_RDWR)))


class Changes:
    """Counts changes of files in the processes of a chain, and kills the one that is about to make the n-th."""

    def __init__(self, runs: Path, last: int = 0):
        self.runs, self.last, self.count = str(runs), last, multiprocessing.Value("i", 0)

    def watch(self) -> None:
        """From now on in this process."""
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple[object, ...]) -> None:
        if changes_files(event, given, self.runs):
            self.count.value += 1
            if self.count.value == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


def kill_at_changes(draw: random.Random, file: Path, runs: Path, kills: int, changes: int) -> int:
    """Kill the chain at one of its changes of files, then let it end; how often it was killed."""
    number = 0
    for _ in range(kills):
        number += make_chain(file, runs, Changes(runs, draw.randint(1, changes)).watch) == -signal.SIGKILL
    assert make_chain(file, runs) == 0, "it does not end after kills"
    return number


def kill_at_times(draw: random.Random, file: Path, runs: Path, kills: int, changes: int) -> int:
    """Kill `ft run` with all its processes at random times, then let it end; how often it was killed."""
    seconds, number = 10.0, 0
    for attempt in range(kills + 1):
        start = time.monotonic()
        run = start_command(file, runs)
        try:
            run.wait(draw.uniform(0, seconds) if attempt < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            number += 1
        else:
            assert run.returncode == 0, f"ft run ended with exit code {run.returncode}"
        seconds = max(seconds, 1.5 * (time.monotonic() - start))
    return number


def start_command(file: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ft", "run", str(file), "--runs", str(runs)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=tiny.environment(), start_new_session=True, stdout=quiet, stderr=quiet)


def check(
    seed: int, folder: Path, model: Path, kills: int, kill: Callable[[random.Random, Path, Path, int, int], int]
) -> tuple[int, list[str]]:
    """One chain: how often it was killed, and what differs from the undisturbed one."""
    draw = random.Random(seed)
    file = write_chain(draw, folder, model)
    whole = Changes(folder / "undisturbed")
    assert make_chain(file, folder / "undisturbed", whole.watch) == 0, "the chain does not run undisturbed"
    number = kill(draw, file, folder / "runs", kills, whole.count.value)
    return number, differences(outcome(file, folder / "undisturbed"), outcome(file, folder / "runs"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=5, help="of each chain")
    parser.add_argument("--changes", action="store_true", help="at changes of files, in forks that have the libraries")
    options = parser.parse_args()
    os.environ.update(tiny.environment())
    importlib.import_module("trl").SFTTrainer  # noqa: B018  # forks are not to import the libraries again

    end, failed, kills = time.monotonic() + 60 * options.minutes, 0, 0
    work = Path(tempfile.mkdtemp(prefix="kill-loop-"))
    model, seed = tiny.base(work / "base"), options.seed
    while time.monotonic() < end:
        kill = kill_at_changes if options.changes else kill_at_times
        try:
            number, different = check(seed, work / str(seed), model, options.kills, kill)
        except AssertionError as error:
            number, different = 0, [str(error)]
        kills, failed = kills + number, failed + bool(different)
        kinds = " → ".join(stage.kind_name for stage in tiny.checked(work / str(seed) / "tiny.yaml").stages)
        verdict = f"differs: {', '.join(different)}" if different else "same"
        print(f"seed {seed}: {kinds}, {number} kills, {verdict}", flush=True)
        seed += 1
    print(f"{seed - options.seed} chains, {kills} kills, {failed} that differ (kept in {work})")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
