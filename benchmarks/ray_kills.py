"""Ten kills of a stage whose answers Ray's actors compute: every row once, the same bytes, and no process left.

    python benchmarks/ray_kills.py RECIPE --runs DIR      # a recipe whose last stage is `sample`; prints a table

First the recipe is made without Ray. Then, for each kill, `ft run RECIPE --engine ray` is started in an empty folder,
the process named is ended while answers come, and the same command is said again until it ends well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ft.models.generation.ray_reaper import ray_processes

KILLS = (
    *(("an actor", "ray::InferenceActor", signal.SIGKILL),) * 3,
    ("the raylet (a node)", "raylet/raylet", signal.SIGKILL),
    ("the raylet (a node)", "raylet/raylet", signal.SIGKILL),
    ("the head (gcs_server)", "gcs/gcs_server", signal.SIGKILL),
    ("the stage", "ft stage", signal.SIGKILL),
    ("the stage", "ft stage", signal.SIGKILL),
    ("ft run", "", signal.SIGKILL),
    ("ft run, Ctrl-C", "", signal.SIGINT),
)
MOST_SECONDS = 600


def ft(recipe: str, runs: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ft", "run", recipe, "--runs", str(runs), *more]
    log = (runs.parent / f"{runs.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def processes(words: str) -> list[int]:
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if words in text and int(command.parent.name) != os.getpid():
            found.append(int(command.parent.name))
    return found


def finished_lines(runs: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in runs.glob("*/sample-*/answers.jsonl"))


def rows(runs: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for folder in sorted(runs.glob("*/sample-*")) for name in NAMES]


NAMES = ("rows.jsonl", "answers.jsonl")


def kill_once(recipe: str, runs: Path, words: str, sign: int) -> tuple[int, int, int]:
    """Exit code of the run that was hit, lines finished by then, and runs until the end."""
    process, most = ft(recipe, runs, "--engine", "ray"), time.monotonic() + MOST_SECONDS
    while not (finished := finished_lines(runs)):
        assert process.poll() is None, "it ended before an answer came"
        assert time.monotonic() < most, "no answer comes"
        time.sleep(0.05)
    target = processes(words)[0] if words else process.pid
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as a terminal does
    else:
        os.kill(target, sign)
    code, count = process.wait(), 1
    while not list(runs.glob("*/sample-*/done.json")):
        assert count < 4, "it does not end"
        ft(recipe, runs, "--engine", "ray").wait()
        count += 1
    return code, finished, count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    assert ft(given.recipe, given.runs / "local").wait() == 0
    expected = rows(given.runs / "local")
    print("| killed | answers by then | exit code | runs in all | same bytes | processes left |")
    print("|---|---|---|---|---|---|")
    for name, words, sign in KILLS:
        runs = given.runs / "killed"
        shutil.rmtree(runs, ignore_errors=True)
        code, finished, count = kill_once(given.recipe, runs, words, sign)
        time.sleep(3)
        same, left = rows(runs) == expected, len(ray_processes("/tmp/ft-ray-"))
        print(f"| {name} | {finished:,} | {code} | {count} | {'yes' if same else 'NO'} | {left} |", flush=True)


if __name__ == "__main__":
    main()
