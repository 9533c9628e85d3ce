"""The tables of docs/fit.md: every shipped recipe on one GPU, and published peaks beside ours at their settings.

    python benchmarks/fit.py [GPU]      the default is 24 GiB

Nothing is downloaded and nothing runs on a GPU: these are estimates.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ft.cli.app import read_recipe
from ft.fit.gpus import GIB, gpu
from ft.fit.sharding import Sharding
from ft.fit.table import fit_plan, values
from ft.results.store import plan

ROOT = Path(__file__).parents[1]
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
DOUBLE = {**NF4, "bnb_4bit_use_double_quant": True}
LLAMA2, LLAMA3, QWEN = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-7B-Instruct"


def stage(rank: int, names: Any, rows: int, length: int, checkpoint: bool, **keys: Any) -> dict[str, Any]:
    train = {"max_length": length, "per_device_train_batch_size": rows, "gradient_accumulation_steps": 8}
    train |= {"gradient_checkpointing": checkpoint, **keys.pop("train", {})}
    lora = {"r": rank, "target_modules": names}
    return {
        "kind": "sft",
        "data": [{"path": str(ROOT / "data/tiny/manners.jsonl")}],
        "lora": lora,
        "train": train,
        **keys,
    }


QV = ["q_proj", "v_proj"]
PUBLISHED = (  # what, their GB (10^9) or GiB in bytes, who, model, stage
    ("litgpt, NF4, r 32, 2 x 512", 13.68e9, LLAMA2, stage(32, QV, 2, 512, False, quantization=NF4)),
    ("litgpt, bf16, r 32, 2 x 512", 19.77e9, LLAMA2, stage(32, QV, 2, 512, False)),
    ("litgpt, bf16, 1 x 1304", 21.30e9, LLAMA2, stage(8, QV, 1, 1304, False)),
    ("litgpt, bf16, 2 x 1304", 29.07e9, LLAMA2, stage(8, QV, 2, 1304, False)),
    ("litgpt, NF4, 1 x 1304", 14.14e9, LLAMA2, stage(8, QV, 1, 1304, False, quantization=NF4)),
    ("litgpt, NF4 double, 1 x 1304", 13.84e9, LLAMA2, stage(8, QV, 1, 1304, False, quantization=DOUBLE)),
    (
        "torchtune, QLoRA, 2 x 2048 packed",
        7.4 * GIB,
        LLAMA3,
        stage(8, "all-linear", 2, 2048, True, quantization=DOUBLE, train={"packing": True}),
    ),
    (
        "torchtune, LoRA bf16, 2 x 2048 packed",
        16.2 * GIB,
        LLAMA3,
        stage(8, "all-linear", 2, 2048, True, train={"packing": True}),
    ),
    ("ms-swift, QLoRA, 1 x 2048", 10e9, QWEN, stage(8, "all-linear", 1, 2048, True, quantization=NF4)),
    ("ms-swift, LoRA DPO, 1 x 2048", 24 * GIB, QWEN, {**stage(8, "all-linear", 1, 2048, True), "kind": "dpo"}),
)


def shipped(name: str) -> Iterator[str]:
    yield "| recipe | stage | peak GiB | when | verdict |"
    yield "|---|---|---:|---|---|"
    for file in sorted((ROOT / "recipes").glob("*-*/*.yaml")):
        for row in _estimates(file, name):
            verdict = f"fits, {row['spare'] / GIB:.1f} to spare" if row["fits"] else _advised(row)
            peak = f"{row['peak'] / GIB:.1f}"
            yield f"| {file.parent.name}/{file.stem} | {row['stage']} | {peak} | {row['when']} | {verdict} |"


def _advised(row: dict[str, Any]) -> str:
    changes = ", ".join(f"`{block}: {keys}`" for one in row["changes"] for block, keys in one.items())
    return f"{row['changed_peak'] / GIB:.1f} with {changes}".replace("'", "") if changes else row["instead"]


def published() -> Iterator[str]:
    yield "| setting | theirs GiB | our estimate GiB | at |"
    yield "|---|---:|---:|---|"
    with tempfile.TemporaryDirectory() as folder:
        for what, theirs, model, written in PUBLISHED:
            file = Path(folder) / "recipe.yaml"
            file.write_text(yaml.safe_dump({"model": model, "stages": [written]}), encoding="utf-8")
            row = _estimates(file, "h100")[0]
            yield f"| {what} | {theirs / GIB:.1f} | {row['peak'] / GIB:.1f} | {row['when']} |"


def _estimates(file: Path, name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as runs:
        there = plan(read_recipe(file, None, Path(runs)), Path(runs))
        return values(fit_plan(there, gpu(name), Sharding()))


def main() -> None:
    warnings.filterwarnings("ignore")
    name = sys.argv[1] if len(sys.argv) > 1 else "24"
    for line in (*shipped(name), "", *published()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
