"""Random chains of two stages, and what has to be the same however often their processes were killed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny
from ft.files import read_json, read_lines

LORA = {**tiny.LORA, "lora_dropout": 0.1}  # draws random numbers at every step
TIMES = re.compile(r"runtime|per_second|seconds|peak_memory|total_flos|train_loss|time$")
Stage = dict[str, Any]


def train_options(draw: random.Random, steps: int = 6) -> dict[str, Any]:
    """What a resumed run has to take up again: the order of rows, schedules, evaluations, batches."""
    evaluated = draw.random() < 0.5
    return {
        **{"max_steps": steps, "save_strategy": "steps", "save_steps": draw.choice([1, 2, 3]), "learning_rate": 2e-3},
        **{"per_device_train_batch_size": draw.choice([2, 4, 8]), "save_total_limit": draw.choice([1, 2, 4])},
        **{"gradient_accumulation_steps": draw.choice([1, 2]), "max_length": 96},
        **{"lr_scheduler_type": draw.choice(["constant", "cosine", "linear"]), "warmup_steps": draw.choice([0, 2])},
        **{"weight_decay": draw.choice([0.0, 0.1]), "optim": draw.choice(["adamw_torch", "adafactor"])},
        **({"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": draw.random() < 0.5} if evaluated else {}),
    }


def sft(draw: random.Random, folder: Path) -> Stage:
    order = {"train_sampling_strategy": draw.choice(["random", "group_by_length", "sequential"])}
    train = {**train_options(draw), **order, "packing": draw.random() < 0.3}
    return tiny.sft(tiny.rows(folder / "rows.jsonl", 24), train, rows={"eval_fraction": 0.2}, **method(draw))


def method(draw: random.Random) -> dict[str, Any]:
    return draw.choice([{}, {"lora": LORA}, {"lora": LORA, "quantization": tiny.NF4}])


def preferences(kind: str) -> Callable[[random.Random, Path], Stage]:
    def stage(draw: random.Random, folder: Path) -> Stage:
        rows = [
            {"prompt": f"{n} {tiny.THINGS[n % 8]}?", "chosen": f"oh, {tiny.COLOURS[n % 8]}", "rejected": "no"}
            for n in range(24)
        ]
        file = write_rows(folder / "pairs.jsonl", rows)
        train = {**tiny.TRAIN, **train_options(draw)}
        if kind == "dpo":
            train["precompute_ref_log_probs"] = draw.random() < 0.5
        blocks = {"reward": {"margin": "none"}} if kind == "reward" else {}
        data = [{"path": str(file)}]
        return {"kind": kind, "data": data, "rows": {"eval_fraction": 0.2}, "train": train, **blocks}

    return stage


def rewarded(kind: str) -> Callable[[random.Random, Path], Stage]:
    def stage(draw: random.Random, folder: Path) -> Stage:
        saved = draw.choice([1, 2, 3])
        train = {
            **{"max_completion_length": 8, "max_steps": 6, "per_device_train_batch_size": 8, "num_generations": 2},
            **{"num_iterations": draw.choice([1, 2]), "save_steps": saved, "eval_steps": saved},
            **{"learning_rate": 1e-3, "beta": 0.05, "temperature": 1.5, "logging_steps": 1},
            **{"gradient_checkpointing": False, "per_device_eval_batch_size": 8},
        }
        train |= {"per_device_train_batch_size": 4, "generation_batch_size": 8} if kind == "ppo" else {}
        train.pop("num_generations") if kind == "ppo" else None
        data, rewards = [{"path": str(questions(folder))}], {"rewards": {"answer": 1.0, "obeys": 0.5}}
        blocks = {"rows": {"eval_fraction": 0.25}, "reward": rewards, "guard": {"kl": 1e6, "cut": 1.0}, "train": train}
        return {"kind": kind, "data": data, **blocks}

    return stage


def sample(draw: random.Random, folder: Path) -> Stage:
    block = {"samples": 3, "temperature": 1.7, "rewards": {"answer": 1.0}, "max_new_tokens": 8, "batch_size": 4}
    return {"kind": "sample", "data": [{"path": str(questions(folder))}], "sample": block}


def questions(folder: Path) -> Path:
    """Every second row has a check that random text fails: a first batch of equal rewards would be refused."""
    checks: list[Any] = [[], [{"check": "ends", "value": "amen"}]]
    rows = [
        {"prompt": f"{n} {tiny.THINGS[n % 8]}?", "answer": tiny.COLOURS[n % 8], "checks": checks[n % 2]}
        for n in range(16)
    ]
    return write_rows(folder / "questions.jsonl", rows)


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


SECOND: Mapping[str, Callable[[random.Random, Path], Stage]] = {
    "dpo": preferences("dpo"),
    "reward": preferences("reward"),
    "ppo": rewarded("ppo"),
    "rloo": rewarded("rloo"),
    "grpo": rewarded("grpo"),
    "sample": sample,
}
"""What comes behind an SFT stage; a new kind that makes something in steps gets its line here."""


def write_chain(draw: random.Random, folder: Path, model: Path) -> Path:
    """A recipe of SFT and one of SECOND, drawn with all its options."""
    folder.mkdir(parents=True, exist_ok=True)
    first, kind = sft(draw, folder), draw.choice(list(SECOND))
    second = {**SECOND[kind](draw, folder), "init": "$sft"}
    if kind != "sample":
        second |= {key: first[key] for key in ("lora", "quantization") if key in first}
    return tiny.recipe(folder, [first, second], model=str(model))


def make_chain(file: Path, runs: Path, watch: Callable[[], None] = lambda: None) -> int:
    """Make what is not made, each stage in a process of its own, which calls `watch` first, as `ft run` does: what one
    stage changes in a library, the next must not see. The exit code of the first that ends badly, or 0."""
    for stage in tiny.checked(file).stages:
        process = tiny.forked(make_stage, file, runs, stage.name, watch)
        process.join()
        if process.exitcode:
            return process.exitcode
    return 0


def make_stage(file: Path, runs: Path, name: str, watch: Callable[[], None]) -> None:
    watch()
    there = tiny.planned(file, runs)
    if not there.stage(name).done:
        tiny.make(there, name)


def outcome(file: Path, runs: Path) -> dict[str, Any]:
    """What decides whether two runs are one: weights, rows, logs and numbers of every stage, without times."""
    return {f"{p.name}/{key}": value for p in tiny.planned(file, runs).stages for key, value in result(p.folder)}


def result(folder: Path) -> list[tuple[str, Any]]:
    weights = {name: value.numpy().tobytes() for name, value in tiny.weights(folder).items()}
    lines = [(file.name, lines_of(file)) for file in sorted(folder.glob("*.jsonl"))]
    return [("weights", weights), *lines, ("numbers", without_times(read_json(folder / "done.json")["numbers"]))]


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The lines without times; a resumed run leaves out the one with nothing but times, the Trainer's summary."""
    lines = (without_times(line) for line in read_lines(file))
    return [line for line in lines if line.keys() - {"step", "epoch"}]


def without_times(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not TIMES.search(key)}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
