"""Memory and time of a `sample` stage whose answers are all recorded: what ft itself costs, without any model.

    python benchmarks/recorded_answers.py --answers 10000000 --runs DIR      # 16 to each prompt; prints a line a step

The stage reads its prompts, finds every answer in answers.jsonl, scores it by a function, and writes samples and rows.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

from ft.files import atomic
from ft.models.generation.sampler import sample_key
from ft.recipe import read
from ft.results.store import plan
from ft.stages import STAGES, sample

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 16
TEXT = "it is a wide blue sky with some white clouds and a yellow sun over the green grass"
RECIPE = f"""
model: {ROOT}/data/tiny/base
chat_template: {ROOT}/data/tiny/chat.jinja
stages:
  - kind: sample
    data: [{{path: prompts.jsonl, format: prompt}}]
    sample: {{samples: {SAMPLES}, rewards: {{answer: 1.0}}, write: WRITE, batch_size: 64}}
"""


def memory() -> str:
    """This process's own bytes; pages of files that it reads can be let go."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return f"{kib / 1024:,.0f} MiB own"


class Steps:
    """Prints what a step cost in CPU time."""

    def __init__(self, answers: int):
        self.answers, self.last = answers, time.process_time()

    def __call__(self, name: str) -> None:
        seconds, self.last = time.process_time() - self.last, time.process_time()
        print(f"{name}: {seconds:,.1f} CPU s, {self.answers / seconds:,.0f} answers/s, {memory()}", flush=True)


def write_prompts(file: Path, prompts: int) -> None:
    with atomic(file) as beside, beside.open("w", encoding="utf-8") as out:
        out.writelines(f'{{"prompt": "what is number {n}?", "answer": "blue"}}\n' for n in range(prompts))


def record(job: object, read_prompts: sample._Read, file: Path) -> None:
    """Answers in the order in which a run leaves them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(read_prompts.prompts, key=lambda one: (-len(read_prompts.ids[one.key]), one.key))
    with atomic(file) as beside, beside.open("w", encoding="utf-8") as out:
        for prompt in ordered:
            out.writelines(
                f'{{"key": "{sample_key(prompt, k)}", "text": "{TEXT}", "tokens": 18, "ended": true}}\n'
                for k in range(SAMPLES)
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--write", default="all")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    recipe = given.runs / "recipe.yaml"
    recipe.write_text(RECIPE.replace("WRITE", given.write), encoding="utf-8")
    write_prompts(given.runs / "prompts.jsonl", given.answers // SAMPLES)
    step = Steps(given.answers)
    there = plan(read(recipe, STAGES), given.runs)
    job = there.job(there.stages[0])
    step("plan")
    options = sample.SampleOptions(**job.block("sample"))
    found = sample._read(job, options, sample._make_scorer(job, options))
    step("read the prompts")
    job.folder.mkdir(parents=True, exist_ok=True)
    record(job, found, job.folder / "answers.jsonl")
    del found
    step("record the answers (not a stage's work)")
    job.write()
    print(sample.make(job))
    step("the stage")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB with pages of files")
    print("load:", os.getloadavg())


if __name__ == "__main__":
    main()
