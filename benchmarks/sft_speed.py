"""Optimizer steps per second of `ft run` (SFT) beside `trl sft`: same rows, same model, same settings, one run.

    python benchmarks/sft_speed.py [--rows 1600] [--repeat 3] [--packing] [--json]

Both commands run alternately as processes of their own on the embedded base model, each time from nothing: rows are
read and tokenised anew. Steps per second are what transformers' Trainer itself reports for both; seconds are those of
the whole command, from start to the saved model, as are CPU seconds, which a busy machine changes least. Answers are
trained, prompts are not; both must have seen as many tokens. The medians are printed.

LLaMA-Factory runs beside them where LLAMAFACTORY_CLI names the command of an environment of its own (its pins exclude
ours); it gets the rows as our template writes them, and no count of its tokens is compared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BASE = ROOT / "data" / "tiny" / "base"
CHAT = ROOT / "data" / "tiny" / "chat.jsonl.gz"
TRAIN = {
    "max_length": 512,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "logging_steps": 10,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
}
SPEED, TOKENS = "steps_per_second", "num_tokens"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DISABLE_VERSION_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def make_rows(path: Path, count: int) -> None:
    """Prompt and completion of as many conversations: what both sides mask in the same way."""
    with gzip.open(CHAT, "rt", encoding="utf-8") as source, path.open("w", encoding="utf-8") as out:
        for line, _ in zip(source, range(count), strict=False):
            messages = json.loads(line)["messages"]
            last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
            said = [{"role": m["role"], "content": m["content"]} for m in messages[: last + 1]]
            out.write(json.dumps({"prompt": said[:-1], "completion": said[-1:]}) + "\n")


def ours(folder: Path, rows: Path, train: dict[str, Any]) -> list[str]:
    stage = {
        "kind": "sft",
        "data": [{"path": str(rows), "format": "prompt_completion"}],
        "rows": {"train_on": "completion"},
        "train": train,
    }
    recipe = folder / "speed.yaml"
    recipe.write_text(yaml.safe_dump({"model": str(BASE), "seed": 1, "stages": [stage]}), encoding="utf-8")
    return [sys.executable, "-m", "ft", "run", str(recipe), "--runs", str(folder / "runs")]


def peer(folder: Path, rows: Path, train: dict[str, Any]) -> list[str]:
    config = folder / "trl.yaml"
    values = {"model_name_or_path": str(BASE), "dataset_name": str(rows.parent), "seed": 1, "output_dir": str(folder)}
    config.write_text(yaml.safe_dump(values | train), encoding="utf-8")
    return [str(Path(sys.executable).with_name("trl")), "sft", "--config", str(config)]


def llamafactory(folder: Path, rows: Path, train: dict[str, Any]) -> list[str]:
    write_rendered(rows, folder / "rows.json")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    config = folder / "factory.yaml"
    values = {key: value for key, value in train.items() if key not in ("max_length", "gradient_checkpointing", "bf16")}
    values |= {"cutoff_len": train["max_length"], "disable_gradient_checkpointing": True, "overwrite_cache": True}
    values |= {"model_name_or_path": str(BASE), "stage": "sft", "do_train": True, "finetuning_type": "full"}
    values |= {"dataset": "rows", "dataset_dir": str(folder), "template": "empty", "output_dir": str(folder / "out")}
    config.write_text(
        yaml.safe_dump(values | {"seed": 1, "report_to": "none", "include_num_input_tokens_seen": True}),
        encoding="utf-8",
    )
    return [os.environ["LLAMAFACTORY_CLI"], "train", str(config)]


def write_rendered(rows: Path, path: Path) -> None:
    """Prompt and answer as the chat template writes them, for a trainer with templates of its own."""
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(BASE).apply_chat_template
    found = []
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        asked = template(row["prompt"], tokenize=False, add_generation_prompt=True)
        whole = template(row["prompt"] + row["completion"], tokenize=False)
        found.append({"instruction": asked, "input": "", "output": whole.removeprefix(asked)})
    path.write_text(json.dumps(found), encoding="utf-8")


SIDES = {"ft run": ours, "trl sft": peer}
FACTORY = "llamafactory-cli"
if "LLAMAFACTORY_CLI" in os.environ:
    SIDES[FACTORY] = llamafactory


def measured(name: str, rows: Path, train: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = SIDES[name](folder, rows, train)
        environment = os.environ | ENVIRONMENT | {"HF_DATASETS_CACHE": str(folder / "cache")}
        started, worked = time.perf_counter(), _children_worked()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        spent = {"seconds": time.perf_counter() - started, "cpu_seconds": _children_worked() - worked}
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
        logged = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("metrics.jsonl")) or done.stdout
    tokens = "num_input_tokens_seen" if name == FACTORY else TOKENS
    reported = {SPEED: _reported(logged, f"train_{SPEED}"), TOKENS: _reported(logged, tokens)}
    return reported | {key: round(value, 2) for key, value in spent.items()}


def _children_worked() -> float:
    """CPU seconds of all finished child processes: what a busy machine changes least."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reported(logged: str, key: str) -> float:
    """The last value of `key` in what the Trainer logged, as JSON or as the dict it prints."""
    found = re.findall(rf"['\"]{key}['\"]: ['\"]?([0-9.e+-]+)", logged)
    if not found:
        sys.exit(f"no {key} in:\n{logged[-2000:]}")
    return float(found[-1])


def compare(rows: int, repeat: int, packing: bool) -> dict[str, Any]:
    train = TRAIN | ({"packing": True, "per_device_train_batch_size": 1} if packing else {})
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "train.jsonl"
        make_rows(file, rows)
        for _ in range(repeat):
            for name in SIDES:
                runs[name].append(measured(name, file, train))
    middle = {
        name: {key: statistics.median(run[key] for run in of_side) for key in of_side[0]}
        for name, of_side in runs.items()
    }
    ours, theirs = middle["ft run"], middle["trl sft"]
    if abs(ours[TOKENS] / theirs[TOKENS] - 1) > 1e-3:  # the Trainer prints four digits
        sys.exit(f"not the same work: ft saw {ours[TOKENS]:.0f} tokens, trl {theirs[TOKENS]:.0f}")
    if FACTORY in middle and packing:
        sys.exit(f"{FACTORY} packs in another way; unset LLAMAFACTORY_CLI")
    ratios = {
        SPEED: round(ours[SPEED] / theirs[SPEED], 3),
        **{key: round(theirs[key] / ours[key], 3) for key in ("seconds", "cpu_seconds")},
    }
    if FACTORY in middle:
        ratios[FACTORY] = round(ours[SPEED] / middle[FACTORY][SPEED], 3)
    return {"median": middle, "ratio": ratios, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--packing", action="store_true", help="packed rows of 512 tokens, one a batch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = compare(options.rows, options.repeat, options.packing)
    if options.json:
        print(json.dumps(result))
        return
    columns = {SPEED: "steps/s", "seconds": "seconds", "cpu_seconds": "CPU seconds"}
    print(f"{'':18}" + "".join(f"{title:>14}" for title in columns.values()))
    for name, values in result["median"].items():
        print(f"{name:18}" + "".join(f"{values[key]:>14.2f}" for key in columns))
    print(f"{'ft / trl':18}" + "".join(f"{result['ratio'][key]:>13.2f}x" for key in columns))


if __name__ == "__main__":
    main()
