"""The fit plan against torch.cuda.max_memory_allocated: one process a stage, steps of the worst length, within 5 %."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.fit.gpus import gpu
from ft.fit.kinds import stage_fit
from ft.fit.sharding import Sharding
from ft.fit.standing import Setting

pytestmark = pytest.mark.gpu

LORA = {"lora": {"r": 16, "target_modules": "all-linear"}}
NF4 = {"quantization": {**tiny.NF4, "bnb_4bit_compute_dtype": "bfloat16"}}
TRAIN = {
    **tiny.TRAIN,
    "max_length": 1024,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "bf16": True,
    "gradient_checkpointing": True,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose weights and activations, not TRL's tile of logits, decide the peak."""
    from transformers import LlamaForCausalLM

    words = tiny.tokenizer()
    config = tiny.config(words)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 2048, 5632, 12
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 32, 8, 64
    config.max_position_embeddings = 1024
    folder = tmp_path_factory.mktemp("wide")
    LlamaForCausalLM(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows and pairs of nearly 1,024 tokens (one a byte), hardly any prompt."""
    folder = tmp_path_factory.mktemp("long")
    chats, pairs = folder / "chats.jsonl", folder / "pairs.jsonl"
    with chats.open("w") as chat, pairs.open("w") as pair:
        for number in range(64):
            ask, answers = {"role": "user", "content": f"{number:03d}?"}, [letter * 960 for letter in "ab"]
            said = [[{"role": "assistant", "content": answer}] for answer in answers]
            chat.write(json.dumps({"messages": [ask, *said[0]]}) + "\n")
            pair.write(json.dumps({"prompt": [ask], "chosen": said[0], "rejected": said[1]}) + "\n")
    return {"sft": chats, "dpo": pairs, "reward": pairs}


CASES: dict[str, dict[str, Any]] = {
    "sft-whole": {"kind": "sft"},
    "sft-lora": {"kind": "sft", **LORA},
    "sft-qlora": {"kind": "sft", **LORA, **NF4},
    "dpo-qlora": {"kind": "dpo", **LORA, **NF4},
    "reward-qlora": {"kind": "reward", **LORA, **NF4, "reward": {"margin": "none"}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_five_percent_of_the_gpu(case, wide, long_rows, tmp_path):
    stage = {**CASES[case], "train": TRAIN, "data": [{"path": str(long_rows[CASES[case]["kind"]])}]}
    if stage["kind"] != "sft":
        stage["data"][0]["format"] = "preference"
    there = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(wide)), tmp_path / "runs")
    job = tiny.job(there, stage["kind"])
    file = replace(job, folder=tmp_path / "probe").write()
    command = [sys.executable, "-c", "import sys; from ft.fit.probe import one; one(sys.argv[1])", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=tiny.environment())
    assert done.returncode == 0, done.stderr
    real = json.loads(done.stdout.splitlines()[-1])["bytes"]
    here = Setting(there.recipe, there.recipe.stage(stage["kind"]), gpu("h100"), Sharding())
    moments = {one.name: one.tensors for one in stage_fit(here).moments}
    print(f"{case}: estimate {moments}, measured {real}")
    assert max(moments["training step"], moments["optimizer step"], moments["loading"]) == pytest.approx(real, rel=0.05)
