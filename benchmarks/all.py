"""Runs every CPU benchmark and writes one table of ours, the peer's and the ratio to docs/benchmarks.md.

    make bench                                             # all of them, some half an hour on a quiet machine
    python benchmarks/all.py --only rollout.py reward.py   # the others keep the figures they have

To add one: a script that prints its figures as JSON with `--json`, and an entry in CLAIMS that reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "benchmarks.md"
RESULTS = FOLDER / "results.json"
SPEED = "steps_per_second"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")


@dataclass(frozen=True)
class Line:
    """One comparison: what was done, ours and the peer's in `unit`, and how many times better ours is."""

    what: str
    unit: str
    ours: float
    peer: float
    ratio: float


@dataclass(frozen=True)
class Claim:
    script: str
    says: str
    peer: str
    read: Callable[[list[Any]], Iterator[Line]]
    arguments: tuple[str, ...] = ()


def sft_speed(printed: list[Any]) -> Iterator[Line]:
    middle, ratio = printed[0]["median"], printed[0]["ratio"]
    ours, peer = middle["ft run"], middle["trl sft"]
    for key, unit in ((SPEED, "steps/s"), ("cpu_seconds", "CPU s, whole command")):
        yield Line("SFT of the embedded model", unit, ours[key], peer[key], ratio[key])
    if "llamafactory-cli" in middle:
        peer = middle["llamafactory-cli"]
        yield Line("the same, peer LLaMA-Factory", "steps/s", ours[SPEED], peer[SPEED], ratio["llamafactory-cli"])


def startup(printed: list[Any]) -> Iterator[Line]:
    for name in ("ft plan, first", "ft plan, remembered", "ft run, finished"):
        for key, unit in (("seconds", "s"), ("cpu_seconds", "CPU s")):
            ours, peer = printed[0][key][name], printed[0][key]["trl sft --help"]
            yield Line(name, unit, ours, peer, peer / ours)


def rows(printed: list[Any]) -> Iterator[Line]:
    found = printed[0]
    ours, peer = (found[name][max(found[name], key=int)] for name in ("ours", "datasets"))
    what = f"{ours['rows']:,} dialogues"
    yield Line(what, "rows/s", ours["rows_per_second"], peer["rows_per_second"], found["ratio"])
    yield Line(what, "MiB at the peak", ours["peak_mib"], peer["peak_mib"], peer["peak_mib"] / ours["peak_mib"])


def rollout(printed: list[Any]) -> Iterator[Line]:
    for turns, found in printed[0].items():
        yield Line(f"{turns} turns", "dialogues/s", found["carried"], found["anew"], found["carried / anew"])


def pairs(printed: list[Any]) -> Iterator[Line]:
    for found in printed:
        what = f"{found['prompt']} + {found['answer']} tokens"
        yield Line(what, "pairs/s", found["shared pairs/s"], found["trl pairs/s"], found["ratio"])
        ours, peer = found["shared MiB"], found["trl MiB"]
        yield Line(what, "MiB at the peak", ours, peer, peer / ours)


def ppo(printed: list[Any]) -> Iterator[Line]:
    for found in printed:
        what = {"ending": "answers that end by themselves", "limit": "answers as long as the limit"}[found["work"]]
        ours, peer = found["ours"], found["trl"]
        key = "answers/CPU s"  # the clock of a busy machine says little
        yield Line(what, key, ours[key], peer[key], found["ratio"][key])
        yield Line(what, "MiB of models and batches", ours["MiB"], peer["MiB"], peer["MiB"] / ours["MiB"])


CLAIMS = (
    Claim(
        "sft_speed.py",
        "SFT makes no slower steps than TRL's own command",
        "`trl sft`",
        sft_speed,
        ("--rows", "800", "--repeat", "2"),
    ),
    Claim("startup.py", "a plan and a finished run answer at once", "`trl sft --help`", startup),
    Claim("rows.py", "rows are read and checked in flat memory", "`datasets`", rows),
    Claim(
        "rollout.py",
        "dialogues are cheaper with the cache carried on",
        "the same, read anew each turn",
        rollout,
        ("--dialogues", "32"),
    ),
    Claim("shared_prefix.py", "DPO computes a pair's prompt once", "`DPOTrainer`", pairs, ("--repeats", "3")),
    Claim("ppo.py", "PPO with everyone on one base", "TRL 1.12's `PPOTrainer`", ppo, ("--repeats", "1")),
    Claim("reward.py", "so does a reward model", "`RewardTrainer`", pairs, ("--repeats", "3")),
)


def measured(claim: Claim) -> dict[str, Any]:
    """The script's figures, and the machine's load before and after it."""
    before, started = os.getloadavg()[0], time.monotonic()
    print(f"{claim.script}: {claim.says}", file=sys.stderr, flush=True)
    command = [sys.executable, str(FOLDER / claim.script), *claim.arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{claim.script} failed; the figures of the others are kept")
    printed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    lines = list(claim.read(printed))
    for line in lines:
        print(f"  {line.what}: {line.ours:,g} against {line.peer:,g} {line.unit}, {line.ratio:.2f}x", file=sys.stderr)
    return {
        "lines": [asdict(line) for line in lines],
        "command": " ".join(["python", f"benchmarks/{claim.script}", *claim.arguments]),
        "seconds": round(time.monotonic() - started),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }


def machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"{processor()}, {os.cpu_count()} cores, OMP_NUM_THREADS={threads}; {libraries}"


def processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def page(results: dict[str, Any]) -> str:
    """docs/benchmarks.md: one table of all claims, and how each was measured."""
    table, ways = [], []
    for claim in CLAIMS:
        found = results.get(claim.script)
        if not found:
            continue
        for place, line in enumerate(found["lines"]):
            said = f"{claim.says} (`{claim.script}`)" if not place else ""
            numbers = f"{line['ours']:,.4g} | {line['peer']:,.4g} | {line['unit']} | **{line['ratio']:.2f}**"
            table.append(f"| {said} | {line['what']} | {claim.peer if not place else ''} | {numbers} |")
        load = " to ".join(map(str, found["load"]))
        ways.append(f"- `{found['command']}`: {found['date']}, {found['seconds']} s, load {load}; {found['machine']}")
    return HEAD + "\n".join([*TITLES, *table, "", "## How each was measured", "", *ways]) + "\n"


TITLES = ("| claim | what | peer | ours | peer's | unit | ratio |", "|---|---|---|---|---|---|---|")
HEAD = """# Benchmarks

Written by `make bench` (`benchmarks/all.py`): each script in [benchmarks/](../benchmarks/README.md) runs ours and the
peer in one run on the same work, and the ratio says how many times better ours is (above 1: faster, or smaller).
Compare ratios, not seconds: the load beside each command says how busy the machine was, and near 1 a ratio taken under
load says nothing.

"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", choices=[claim.script for claim in CLAIMS])
    options = parser.parse_args(arguments)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for claim in CLAIMS:
        if not options.only or claim.script in options.only:
            results[claim.script] = measured(claim)
            RESULTS.write_text(
                json.dumps(results, indent=1) + "\n", encoding="utf-8"
            )  # after each: an interrupted run keeps what it has
            PAGE.write_text(page(results), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
