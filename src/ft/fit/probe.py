"""One worst-length step of each training stage on the GPU at hand, held against the estimate.

Each step runs in a process of its own, as stages do, so that no memory of one is counted in another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.fit.gpus import GIB, gpu, gpu_here
from ft.fit.kinds import stage_fit
from ft.fit.setting import Setting
from ft.fit.sharding import Sharding
from ft.models.adapters import adapters_kept
from ft.models.device import has_gpu
from ft.notices import quiet_bars, quiet_libraries
from ft.recipe import accumulation
from ft.recipe.job import Job
from ft.recipe.kind import function_at
from ft.results.store import Plan, PlannedStage
from ft.rl.loop import prepare_training
from ft.stages import STAGES

TRAINING_MOMENTS = ("rollout", "training step", "optimizer step")


def probe_stages(plan: Plan, name: str | None) -> list[dict[str, Any]]:
    """For each training stage what it was estimated to need and what it did, in bytes. UserError without CUDA."""
    if not has_gpu():
        raise fail("--probe", "this machine has no GPU", "Leave --probe out: `ft plan RECIPE --gpu 24` estimates.")
    device = gpu(name) if name else gpu_here()
    ready = [planned for planned in plan.stages if can_be_probed(plan, planned)]
    return [_compare_stage(Setting(plan.recipe, one.stage, device, Sharding()), _measure(plan, one)) for one in ready]


def can_be_probed(plan: Plan, planned: PlannedStage) -> bool:
    """Whether its rows are prepared, if it has any, and what it starts from and reads is made."""
    ready = planned.prepared is not None or not planned.stage.kind.rows
    return planned.stage.kind.trains and ready and all(plan.stage(name).done for name in planned.stage.parents)


def _compare_stage(setting: Setting, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Beside the estimate for the batch that the step met: rows, or prompts, as long as the longest, and padding where
    it had some."""
    name = setting.stage.name
    fit = stage_fit(replace(setting, longest=measured.get("longest"), padded=measured.get("padded", True)))
    if fit.problem:
        return {"stage": name, "problem": fit.problem}
    return {
        "stage": name,
        **compare_bytes(max(one.tensors for one in fit.moments if one.name in TRAINING_MOMENTS), measured),
    }


def compare_bytes(estimate: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Estimate and measurement in bytes, and by what share of the measurement the estimate is off."""
    if "problem" in measured:
        return {"estimate": estimate, "measured": None, "error": None, "problem": measured["problem"]}
    real = int(measured["bytes"])
    return {"estimate": estimate, "measured": real, "error": (estimate - real) / real}


def _measure(plan: Plan, planned: PlannedStage) -> dict[str, Any]:
    """What the step's own process says: `bytes` at most, or the `problem` it ended with."""
    with tempfile.TemporaryDirectory() as folder:
        file = few_steps(plan.job(planned), Path(folder)).write()
        code = "import sys; from ft.fit.probe import run_probe; run_probe(sys.argv[1])"
        command = [sys.executable, "-c", code, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"problem": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    measurement: dict[str, Any] = json.loads(lines[-1])
    return measurement


def few_steps(job: Job, folder: Path) -> Job:
    """The stage as it is, for a few steps, and nothing judged, saved or measurement to a tracker."""
    train = {**job.block("train"), "max_steps": _steps(job), "num_train_epochs": 1, "save_strategy": "no"}
    train |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False, "report_to": "none"}
    return replace(job, folder=folder, blocks={**job.blocks, "train": train})


def _steps(job: Job) -> int:
    """Two, of which the second meets the optimizer's states; where answers are drawn, so many that the second batch of
    them meets these."""
    if STAGES[job.kind].rows:
        return 2
    train = {**STAGES[job.kind].blocks["train"].schema().defaults, **job.block("train")}
    rows = int(train["per_device_train_batch_size"])
    rounds = int(train["gradient_accumulation_steps"])
    if job.global_batch:
        rounds = accumulation(job.global_batch, rows, 1)
    answers = int(train["generation_batch_size"] or rows * int(train["steps_per_generation"] or rounds))
    return -(-answers // (rows * rounds)) * int(train["num_iterations"]) + 1


def run_probe(file: str) -> None:
    """The process of one probe: train a few steps on the longest rows and print the most bytes of tensors."""
    quiet_libraries()
    import torch

    quiet_bars()
    trainer, longest = longest_rows_trainer(Job.read(Path(file)))
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    padded = _padded(trainer.train_dataset)
    print(json.dumps({"bytes": torch.cuda.max_memory_allocated(), "longest": longest, "padded": padded}))


def longest_rows_trainer(job: Job) -> tuple[Any, int]:
    """The stage's trainer with the longest rows alone, and their tokens. One that answers has the longest prompts, and
    every answer is as long as it may be."""
    from ft.rl.ppo import PPOTrainer

    kind = STAGES[job.kind]
    trainer_of = function_at(kind.trainer)
    if kind.rows:
        trainer = trainer_of(job)
        trainer.train_dataset, longest = _longest_first(trainer.train_dataset, _length)
        trainer.shares = False  # of a pair's prompt; the estimate is of a pair that has nothing in common
        return trainer, longest
    ready, _ = prepare_training(job, kind.blocks["train"].load())
    # TRL's trainers let no answer end early when they are measurement so.
    kwargs = {**(ready.config.generation_kwargs or {}), "min_new_tokens": ready.config.max_completion_length}
    ready.config.generation_kwargs = kwargs
    renderer = Renderer(ready.tokenizer)
    rows, longest = _longest_first(ready.rows, lambda row: len(renderer.prompt(row["prompt"])))
    ready = replace(ready, rows=rows)
    with adapters_kept(ready.model) if "lora" in job.blocks else nullcontext():
        trainer = trainer_of(ready)
    if isinstance(trainer, PPOTrainer):  # which samples by itself
        trainer.actors.renderer.stop_ids = (-1,)  # no token ends an answer
    return trainer, longest


def _longest_first(rows: Any, length: Callable[[Mapping[str, Any]], int]) -> tuple[Any, int]:
    """The longest rows alone, enough for every step to draw nothing shorter, and how long they are."""
    lengths = [length(row) for row in rows]
    longest = [place for place, tokens in enumerate(lengths) if tokens == max(lengths)]
    return rows.select((longest * len(rows))[: len(rows)]), max(lengths)


def _padded(rows: Any) -> bool:
    """Whether a batch of rows that are all the longest still has padding: behind the shorter side of a pair."""
    return "chosen_ids" in rows.column_names and any(len(row["chosen_ids"]) != len(row["rejected_ids"]) for row in rows)


def _length(row: Mapping[str, Any]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def show(stages: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("stage", "estimate GiB", "measured GiB", "off by"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    table.add_column("")
    for row in stages:
        numbers = [f"{row[key] / GIB:.2f}" if row.get(key) else "·" for key in ("estimate", "measured")]
        off = f"{row['error']:+.1%}" if row.get("error") is not None else "·"
        table.add_row(row["stage"], *numbers, off, row.get("problem", ""))
    console.print(table)
    if not stages:
        console.print("no training stage is ready: prepare rows with `ft plan RECIPE --prepare`, make its parents")
