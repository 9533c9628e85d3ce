"""Answers a second of a CPU-bound stage: one process, and two actors of Ray, when both have loaded the model.

    OMP_NUM_THREADS=1 python benchmarks/ray_throughput.py [--answers 1024]     # prints a table

The embedded model samples answers by the code of a `sample` stage, one thread a process. Each way answers the same
requests; before the clock starts each has answered others, so that start-up and loading are not in it. The two files
are compared byte by byte.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from ft.encode.conversation import Renderer
from ft.models.device import keep_freed_memory
from ft.models.generation.backends import WorkerRequest, WorkerSpec, answer_requests, load_worker
from ft.models.generation.executor import Loader, use_engine
from ft.models.generation.resumable import compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of
from ft.recipe.engine import EngineOptions

TINY = Path(__file__).resolve().parents[1] / "data" / "tiny"
BATCH = 16
WAYS = {"one process": EngineOptions(), "two actors": EngineOptions("ray", actors=2)}


def requests(prefix: str, count: int) -> list[WorkerRequest]:
    renderer = Renderer(tokenizer_of(None, TINY / "base", str(TINY / "chat.jinja")))
    with gzip.open(TINY / "prompts.jsonl.gz", "rt", encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    messages = [prompts[n % len(prompts)] for n in range(count)]
    return [WorkerRequest(f"{prefix}{n}", one, renderer.prompt(one)) for n, one in enumerate(messages)]


def measure(way: str, folder: Path, answers: int) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process."""
    spec = WorkerSpec(folder=TINY / "base", chat_template=str(TINY / "chat.jinja"), batch_size=BATCH)
    worker, size = Loader(load_worker, spec), spec.requests_per_batch
    work = partial(answer_requests, sampling=Sampling(96, temperature=1.0))
    keep_freed_memory()  # as a stage's process does
    first, asked = requests("first ", 4 * size), requests("", answers)
    with use_engine(WAYS[way], folder, "benchmark"):
        compute_entries(first, worker, work, folder / f"{way} first.jsonl", size, "answers")
        start, cpu = time.monotonic(), time.process_time()
        compute_entries(asked, worker, work, folder / f"{way}.jsonl", size, "answers")
        return time.monotonic() - start, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=1024)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {way: measure(way, folder, given.answers) for way in WAYS}
        files = {(folder / f"{way}.jsonl").read_bytes() for way in WAYS}
    base = found["one process"][0]
    print("| | seconds | answers/s | of one process | CPU seconds of the stage's process |\n|---|---|---|---|---|")
    for way, (seconds, cpu) in found.items():
        print(f"| {way} | {seconds:.1f} | {given.answers / seconds:.1f} | {base / seconds:.2f} | {cpu:.1f} |")
    print("same bytes:", len(files) == 1, "load:", os.getloadavg())


if __name__ == "__main__":
    main()
