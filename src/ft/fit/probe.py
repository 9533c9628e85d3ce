"""One worst-length step of each training stage on the GPU at hand, held against the estimate.

Each step runs in a process of its own, as stages do, so that no memory of one is counted in another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ft.errors import fail
from ft.fit.gpus import GIB, Gpu, gpu
from ft.fit.sharding import Sharding
from ft.fit.table import FitPlan, fit_plan
from ft.models.device import has_gpu
from ft.runs import Plan, Planned
from ft.stages.job import Job

STEPS = 2  # the second meets the optimizer's states
MADE = {"sft": "ft.stages.sft", "pretrain": "ft.stages.sft", "dpo": "ft.stages.dpo", "reward": "ft.stages.reward"}
"""Kinds that can be probed, by the module whose `trainer_of` makes their trainer."""


def probed(there: Plan, name: str | None) -> list[dict[str, Any]]:
    """For each training stage what it was estimated to need and what it did, in bytes. UserError without CUDA."""
    if not has_gpu():
        raise fail("--probe", "this machine has no GPU", "Leave --probe out: `ft plan RECIPE --gpu 24` estimates.")
    import torch

    here = torch.cuda.get_device_properties(0)
    named = gpu(name) if name else Gpu(here.name, here.total_memory / GIB)
    found = fit_plan(there, named, Sharding())
    return [_compared(found, planned, _measured(there, planned)) for planned in there.stages if _can(there, planned)]


def _can(there: Plan, planned: Planned) -> bool:
    """Whether its rows are prepared and what it starts from is made."""
    parent = there.stage(planned.stage.init) if planned.stage.init else None
    return planned.stage.kind_name in MADE and planned.prepared is not None and (parent is None or bool(parent.done))


def _compared(found: FitPlan, planned: Planned, measured: Mapping[str, Any]) -> dict[str, Any]:
    row = next(row for row in found.rows if row.planned.name == planned.name)
    if row.fit.problem:
        return {"stage": planned.name, "problem": row.fit.problem}
    steps = [one.tensors for one in row.fit.moments if one.name in ("training step", "optimizer step")]
    return {"stage": planned.name, **compared(max(steps), measured)}


def compared(estimate: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Estimate and measurement in bytes, and by what share of the measurement the estimate is off."""
    if "problem" in measured:
        return {"estimate": estimate, "measured": None, "error": None, "problem": measured["problem"]}
    real = int(measured["bytes"])
    return {"estimate": estimate, "measured": real, "error": (estimate - real) / real}


def _measured(there: Plan, planned: Planned) -> dict[str, Any]:
    """What the step's own process says: `bytes` at most, or the `problem` it ended with."""
    with tempfile.TemporaryDirectory() as folder:
        job = there.job(planned)
        train = {**job.block("train"), "max_steps": STEPS, "num_train_epochs": 1, "save_strategy": "no"}
        train |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False, "report_to": "none"}
        file = replace(job, folder=Path(folder), blocks={**job.blocks, "train": train}).write()
        command = [sys.executable, "-c", "import sys; from ft.fit.probe import one; one(sys.argv[1])", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"problem": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def one(file: str) -> None:
    """The process of one probe: train STEPS steps on the longest rows and print the most bytes of tensors."""
    import importlib

    import torch

    job = Job.read(Path(file))
    trainer = importlib.import_module(MADE[job.kind]).trainer_of(job)
    trainer.train_dataset = _longest_first(trainer.train_dataset)
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    print(json.dumps({"bytes": torch.cuda.max_memory_allocated()}))


def _longest_first(rows: Any) -> Any:
    """The longest rows alone, enough for every step to draw nothing shorter."""
    lengths = [_length(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: -lengths[place])
    longest = [place for place in order if lengths[place] == lengths[order[0]]] or order
    return rows.select((longest * len(rows))[: len(rows)])


def _length(row: Mapping[str, Any]) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def show(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("stage", "estimate GiB", "measured GiB", "off by"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    table.add_column("")
    for row in found:
        numbers = [f"{row[key] / GIB:.2f}" if row.get(key) else "·" for key in ("estimate", "measured")]
        off = f"{row['error']:+.1%}" if row.get("error") is not None else "·"
        table.add_row(row["stage"], *numbers, off, row.get("problem", ""))
    console.print(table)
    if not found:
        console.print("no training stage is ready: prepare rows with `ft plan RECIPE --prepare`, make its parents")
