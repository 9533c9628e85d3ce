"""Seconds from a command to its answer: `ft plan`, and `ft run` on a finished recipe, beside `trl sft --help`.

    python benchmarks/startup.py [--repeat 3] [--json]

The recipe is recipes/tiny/chat.yaml as far as its SFT stage, cut to one step so that it is finished soon. "first" is in
an empty folder of results, where blocks are checked against the libraries' classes; "remembered" is every time after.
"""

from __future__ import annotations

import argparse
import json
import os
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
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
PEER = "trl sft --help"


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


def once(ft: list[str], folder: Path) -> dict[str, float]:
    """One round of all measurements, alternating, in one folder of results."""
    plan = [*ft, "plan", str(RECIPE), *SHORT, "--runs", str(folder / "runs")]
    run = [*ft, "run", str(RECIPE), *SHORT, "--runs", str(folder / "made"), "--only", "sft"]
    if not (folder / "made").exists():
        seconds(run)
    shutil.rmtree(folder / "runs", ignore_errors=True)
    return {
        "python alone": seconds([sys.executable, "-c", "pass"]),
        "ft plan, first": seconds(plan),
        "ft plan, remembered": seconds(plan),
        "ft run, finished": seconds(run),
        PEER: seconds([str(Path(sys.executable).with_name("trl")), "sft", "--help"]),
    }


def compare(repeat: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        rounds = [once([sys.executable, "-m", "ft"], Path(folder)) for _ in range(repeat)]
    return {name: round(statistics.median(each[name] for each in rounds), 2) for name in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = compare(options.repeat)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'':22}{'seconds':>8}{'of trl sft --help':>20}")
    for name, value in result.items():
        print(f"{name:22}{value:>8.2f}{value / result[PEER]:>20.2f}")


if __name__ == "__main__":
    main()
