"""Rows per second and memory of reading, formatting and checking chat rows; beside it `datasets` doing the same.

    python benchmarks/rows.py [--rows 1000000] [--json]

Makes short conversations as JSON Lines in a temporary folder. Each measurement is a process of its own, so that its
peak memory is its own. The peer is `load_dataset("json")` and `map` with the same format function, its cache empty;
its memory includes the pages of its Arrow files that it maps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = 100_000


def make_rows(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = [
                {"role": "system", "content": "You answer in one short sentence."},
                {"role": "user", "content": f"What is {number} plus {number % 97}?"},
                {"role": "assistant", "content": f"It is {number + number % 97}."},
                {"role": "user", "content": "And twice that, please?"},
                {"role": "assistant", "content": f"That is {2 * (number + number % 97)}."},
            ]
            file.write(json.dumps({"id": number, "messages": messages}) + "\n")


def ours(path: str) -> int:
    from ft.data.mix import BadRows, mix_rows
    from ft.data.sources.read import Source

    bad = BadRows("error")
    rows = sum(1 for _ in mix_rows([Source(path)], seed=1, bad=bad))
    bad.finish()
    return rows


def peer(path: str) -> int:
    import datasets

    from ft.data.formats import FORMATS

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(Path(path).parent / "cache"))
    return sum(1 for _ in rows.map(FORMATS["messages"]))


READERS = {"ours": ours, "datasets": peer}


def measure(name: str, path: str) -> None:
    """One reading, in this process; prints rows, seconds and peak memory in MiB."""
    READERS[name](str(Path(path).with_name("warm.jsonl")))  # imports are paid before the clock starts
    started = time.perf_counter()
    rows = READERS[name](path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": round(seconds, 2), "peak_mib": round(peak)}))


def measured(name: str, path: Path) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--measure", name, str(path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result | {"rows_per_second": round(result["rows"] / result["seconds"])}


def compare(rows: int) -> dict[str, dict[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = {min(SMALL, rows): Path(folder, "small.jsonl"), rows: Path(folder, "large.jsonl")}
        make_rows(Path(folder, "warm.jsonl"), 10)
        for size, path in sizes.items():
            make_rows(path, size)
        return {name: {str(size): measured(name, path) for size, path in sizes.items()} for name in READERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    results = compare(options.rows)
    speed = {name: by_size[str(options.rows)]["rows_per_second"] for name, by_size in results.items()}
    ratio = speed["ours"] / speed["datasets"]
    if options.json:
        print(json.dumps(results | {"ratio": round(ratio, 2)}))
        return
    print(f"{'':10}{'rows':>12}{'seconds':>10}{'rows/s':>12}{'peak MiB':>10}")
    for name, by_size in results.items():
        for size, result in by_size.items():
            numbers = f"{result['seconds']:>10.2f}{result['rows_per_second']:>12,}{result['peak_mib']:>10,}"
            print(f"{name:10}{int(size):>12,}{numbers}")
    print(f"ours / datasets: {ratio:.2f}")


if __name__ == "__main__":
    main()
