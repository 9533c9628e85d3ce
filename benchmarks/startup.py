"""Seconds from a command to its answer: `ft plan`, and `ft run` on a finished recipe, beside `trl sft --help`.

    python benchmarks/startup.py [--repeat 3] [--json]

The recipe is recipes/tiny/chat.yaml as far as its SFT stage, cut to one step so that it is finished soon. "first" is in
an empty folder of results, with blocks never seen before; "asked of TRL" the same with a value that the source of TRL's
class does not decide (a name that might be asked of the machine), so that it is imported; "remembered" is every time
after. CPU seconds are those of the command and of its children: a busy machine changes them least.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "tiny" / "chat.yaml"
SHORT = ["--set", "sft.train.max_steps=1", "--set", "sft.data.0.rows=200"]
RARE = ["--set", "sft.train.run_name=device"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
PEER = "trl sft --help"


def spent(command: list[str]) -> tuple[float, float]:
    """(seconds on the clock, seconds of CPU) of a command."""
    started, worked = time.perf_counter(), _children_worked()
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started, _children_worked() - worked


def _children_worked() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def once(ft: list[str], folder: Path) -> dict[str, tuple[float, float]]:
    """One round of all measurements, alternating, in one folder of results."""
    plan = [*ft, "plan", str(RECIPE), *SHORT, "--runs", str(folder / "runs")]
    run = [*ft, "run", str(RECIPE), *SHORT, "--runs", str(folder / "made"), "--only", "sft"]
    if not (folder / "made").exists():
        spent(run)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return {
        "python alone": spent([sys.executable, "-c", "pass"]),
        "ft plan, first": spent(plan),
        "ft plan, remembered": spent(plan),
        "ft plan, asked of TRL": spent([*plan, *RARE]),
        "ft run, finished": spent(run),
        PEER: spent([str(Path(sys.executable).with_name("trl")), "sft", "--help"]),
    }


def compare(repeat: int) -> dict[str, dict[str, float]]:
    """Medians: seconds on the clock and of CPU, by what was done."""
    with tempfile.TemporaryDirectory() as folder:
        rounds = [once([sys.executable, "-m", "ft"], Path(folder)) for _ in range(repeat)]
    return {
        clock: {name: round(statistics.median(each[name][place] for each in rounds), 2) for name in rounds[0]}
        for place, clock in enumerate(("seconds", "cpu_seconds"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = compare(options.repeat)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'':22}{'seconds':>8}{'of trl sft --help':>20}{'CPU seconds':>14}")
    for name, value in result["seconds"].items():
        print(f"{name:22}{value:>8.2f}{value / result['seconds'][PEER]:>20.2f}{result['cpu_seconds'][name]:>14.2f}")


if __name__ == "__main__":
    main()
