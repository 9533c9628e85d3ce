"""The fit plan against torch.cuda.max_memory_allocated: one process a stage, steps of the worst length, within 5 %."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.fit.gpus import gpu_here
from ft.fit.kinds import stage_fit
from ft.fit.probe import TRAINING_MOMENTS, few_steps
from ft.fit.setting import Setting
from ft.fit.sharding import Sharding
from ft.results.store import Plan

pytestmark = pytest.mark.gpu

FROM_PROMPTS = ("ppo", "rloo", "grpo")
REWARDED = {"reward": {"rewards": {"answer": 1.0}}, "rows": {"eval_fraction": 0.0}}
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


REINFORCED = {
    **{key: value for key, value in TRAIN.items() if key not in ("max_length", "save_strategy")},
    **{"max_completion_length": 256, "generation_batch_size": 16, "temperature": 1.0, "beta": 0.05},
    **{"max_steps": 8, "eval_steps": 8, "save_steps": 8, "per_device_eval_batch_size": 8},
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
    config.initializer_range = 0.02  # as models have it; tiny's 0.08 makes logits of thousands at this width
    folder = tmp_path_factory.mktemp("wide")
    LlamaForCausalLM(config).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows and pairs of nearly 1,024 tokens (one a byte), hardly any prompt; and prompts of some 500."""
    folder = tmp_path_factory.mktemp("long")
    chats, pairs, prompts = (folder / f"{name}.jsonl" for name in ("chats", "pairs", "prompts"))
    asked = [{"prompt": f"{number:03d} " + "a" * 480, "answer": "blue"} for number in range(64)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    with chats.open("w", encoding="utf-8") as chat, pairs.open("w", encoding="utf-8") as pair:
        for number in range(64):
            ask, answers = {"role": "user", "content": f"{number:03d}?"}, [letter * 960 for letter in "ab"]
            said = [[{"role": "assistant", "content": answer}] for answer in answers]
            chat.write(json.dumps({"messages": [ask, *said[0]]}) + "\n")
            pair.write(json.dumps({"prompt": [ask], "chosen": said[0], "rejected": said[1]}) + "\n")
    return {"sft": chats, "dpo": pairs, "reward": pairs, **dict.fromkeys(FROM_PROMPTS, prompts)}


CASES: dict[str, dict[str, Any]] = {
    "sft-whole": {"kind": "sft"},
    "sft-lora": {"kind": "sft", **LORA},
    "sft-qlora": {"kind": "sft", **LORA, **NF4},
    "dpo-qlora": {"kind": "dpo", **LORA, **NF4},
    "reward-qlora": {"kind": "reward", **LORA, **NF4, "reward": {"margin": "none"}},
    "ppo-lora": {"kind": "ppo", **LORA, **REWARDED},
    "ppo-qlora": {"kind": "ppo", **LORA, **NF4, **REWARDED},
    "rloo-qlora": {"kind": "rloo", **LORA, **NF4, **REWARDED},
    "grpo-qlora": {"kind": "grpo", **LORA, **NF4, **REWARDED},
}


def recipe_of(case: str, rows: Mapping[str, Path], folder: Path, model: Path) -> Plan:
    kind = CASES[case]["kind"]
    train = REINFORCED if kind in FROM_PROMPTS else TRAIN
    stage = {**CASES[case], "train": train, "data": [{"path": str(rows[kind])}]}
    if kind in ("dpo", "reward"):
        stage["data"][0]["format"] = "preference"
    return tiny.planned(tiny.recipe(folder, [stage], model=str(model)), folder / "runs")


def record(case: str, numbers: Mapping[str, Any], record_property: Callable[[str, Any], None]) -> None:
    """Into the log, whether the case passes or not: a warning, pytest's report, and $OUT/fit.jsonl where OUT is set."""
    line = json.dumps({"case": case, **numbers})
    record_property("fit", line)
    warnings.warn(line, stacklevel=2)
    if os.environ.get("OUT"):
        with (Path(os.environ["OUT"]) / "fit.jsonl").open("a", encoding="utf-8") as out:
            out.write(line + "\n")


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_five_percent_of_the_gpu(case, wide, long_rows, tmp_path, record_property):
    there, kind = recipe_of(case, long_rows, tmp_path, wide), CASES[case]["kind"]
    file = few_steps(tiny.job(there, kind), tmp_path / "probe").write()
    code = "import sys; from ft.fit.probe import run_probe; run_probe(sys.argv[1])"
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=tiny.environment())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    stage = there.recipe.stage(kind)
    here = Setting(there.recipe, stage, gpu_here(), Sharding(), told["longest"], told["padded"])
    moments = {one.name: one.tensors for one in stage_fit(here).moments}
    most = max(size for name, size in moments.items() if name in (*TRAINING_MOMENTS, "loading"))
    record(case, {"estimate": most, "moments": moments, "measured": told}, record_property)
    assert most == pytest.approx(told["bytes"], rel=0.05)
