"""One stage of gpu.py by Unsloth; gpu.py starts it with the Python that UNSLOTH_PYTHON names.

    UNSLOTH_PYTHON=/elsewhere/bin/python python benchmarks/gpu.py

Unsloth's pins exclude ours, and importing it needs a GPU, so it has an environment of its own:
`pip install unsloth==2026.10.9` beside a CUDA build of torch. Model, rows, adapter and batch are those of
the recipe; the 4-bit base is Unsloth's own (NF4, quantised twice, bfloat16), and so is its checkpointing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from unsloth import FastLanguageModel  # first: it patches the others

from gpu import LORA, limit, watched  # isort: skip


def train(stage: dict[str, Any], model_path: str) -> None:
    """As Unsloth's documentation has it for SFT and for DPO, whose reference is the model without its adapter."""
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    config, make = {"sft": (SFTConfig, SFTTrainer), "dpo": (DPOConfig, DPOTrainer)}[stage["kind"]]
    length = stage["train"]["max_length"]
    model, tokenizer = FastLanguageModel.from_pretrained(model_path, max_seq_length=length, load_in_4bit=True)
    model = FastLanguageModel.get_peft_model(
        model, r=LORA["r"], lora_alpha=LORA["lora_alpha"], use_gradient_checkpointing="unsloth", random_state=1
    )
    with tempfile.TemporaryDirectory() as folder:
        make(
            model=model,
            args=config(output_dir=folder, seed=1, disable_tqdm=True, report_to="none", **stage["train"]),
            train_dataset=load_dataset("json", data_files=stage["data"][0]["path"], split="train", cache_dir=folder),
            processing_class=tokenizer,
        ).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stage", type=json.loads, required=True, help="a stage of the recipe, as JSON")
    parser.add_argument("--model", required=True)
    parser.add_argument("--measure", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cap", type=float)
    options = parser.parse_args()
    limit(options.cap)
    watched(options.measure, lambda: train(options.stage, options.model))


if __name__ == "__main__":
    main()
