"""Ends what Ray leaves behind: started beside a stage, it acts when the stage has ended, however that came about.

Ray's own agents outlive a stage that was killed by minutes, and its temporary folder for ever. Run as a program of its
own, with the standard library alone, on TEMPORARY (Ray's folder) and LOGS (where its logs go): it acts when its stdin
ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 1.0


def ray_processes(temporary: str) -> set[tuple[int, str]]:
    """Number and start time of the processes whose command names the folder, and of all that they have started: agents
    and actors give themselves other names. Linux alone shows them."""
    parents, starts, found = {}, {}, set()
    for process, stat, command in _processes():
        fields = stat.rpartition(")")[2].split()
        parents[process], starts[process] = int(fields[1]), fields[19]
        if temporary.encode() in command:
            found.add(process)
    found.discard(os.getpid())
    while below := {process for process, parent in parents.items() if parent in found} - found:
        found |= below
    return {(process, starts[process]) for process in found}


def _processes() -> Iterator[tuple[int, str, bytes]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (
                int(folder.name),
                (folder / "stat").read_text(encoding="utf-8", errors="replace"),
                (folder / "cmdline").read_bytes(),
            )


def _is_the_same(process: int, start: str) -> bool:
    """Numbers of processes are given again."""
    with suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19] == start
    return False


def wait_and_reap(temporary: Path, logs: Path) -> None:
    """End the processes, bring the logs to the stage's folder, and remove Ray's."""
    seen: set[tuple[int, str]] = set()
    while not select.select([0], [], [], SECONDS_BETWEEN_LOOKS)[0] or os.read(0, 1):
        seen |= ray_processes(str(temporary))  # an agent's parent may be gone when the stage is
    for process, start in seen | ray_processes(str(temporary)):
        if _is_the_same(process, start):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
    files = [file for file in temporary.glob("session_2*/logs/*") if file.is_file() and file.stat().st_size]
    if files:
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, logs / file.name)
    shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    wait_and_reap(Path(sys.argv[1]), Path(sys.argv[2]))
