"""One GPU: tokens/s, MFU and peak memory of SFT, DPO, reward training and PPO with QLoRA, beside TRL and Unsloth.

    python benchmarks/gpu.py [--shape 7b] [--stages sft dpo reward ppo] [--caps 12 16 24] [--json results.json]

A Llama of 7B shape with random weights is made on the spot, so nothing is downloaded; both sides train it in NF4 with
the same adapter, batch and checkpointing, ours by the stages of a recipe and the peer by TRL's trainers on the same
rows. Each runs as a process of its own under the smallest cap of GPU memory that holds it (an allocation beyond the cap
fails, as it would on such a card). PPO holds policy, reference, reward model and critic on one base, and comes behind
`reward`; TRL has none. Without a GPU only `--shape tiny` runs, to see that everything works.

Unsloth runs beside them in SFT and DPO where UNSLOTH_PYTHON names the Python of an environment that has it
(unsloth_peer.py); else its lines say that it is not installed.

tokens/s   of the steps after the first two, tokens as TRL counts them; of PPO answers/s, sampled and learnt from
MFU        4 FLOP a parameter and token, since frozen weights have no gradient, of the card's dense bf16 peak; what
           checkpointing computes again is not counted
peak       most bytes of tensors while the Trainer trains, without loading before it and checks behind it
estimate   of `ft plan --gpu` for the same steps, and by how much it is off that peak
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data" / "tiny"
GIB = 1 << 30
WARM = 2  # steps before the clock starts
A_STEP = 4  # answers PPO learns from in a step
OUT_OF_MEMORY = 75
UNSLOTH = "UNSLOTH_PYTHON"
SIDES = {"sft": ("ft", "trl", "unsloth"), "dpo": ("ft", "trl", "unsloth"), "reward": ("ft", "trl"), "ppo": ("ft",)}
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
}
LENGTHS = {"7b": (2048, 512, 256), "tiny": (256, 48, 24)}  # of a packed row, a prompt, an answer; tokens
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12, "3090": 71e12, "A10": 125e12}


def on_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def make_model(folder: Path, shape: str) -> None:
    """Random weights in bfloat16 with the embedded model's tokenizer, as a folder that `from_pretrained` opens."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[shape], vocab_size=32000, max_position_embeddings=4096, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    folder.mkdir(parents=True)
    where = {}
    for number, names in enumerate(by_layer(shapes)):
        file = f"model-{number:05}.safetensors"
        save_file({name: drawn(name, shapes[name]) for name in names}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8"
    )
    config.save_pretrained(folder)
    for file in (TINY / "base").glob("*"):
        if file.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(file, folder)


def by_layer(shapes: dict[str, Any]) -> Iterator[list[str]]:
    layers = {name.split(".")[2] if ".layers." in name else "" for name in shapes}
    for layer in layers:
        yield [name for name in shapes if (name.split(".")[2] if ".layers." in name else "") == layer]


def drawn(name: str, shape: Any) -> Any:
    import torch

    value = torch.empty(shape, dtype=torch.bfloat16, device="cuda" if on_gpu() else "cpu")
    return (value.fill_(1) if "norm" in name else value.normal_(std=0.02)).cpu()


def make_rows(folder: Path, shape: str, steps: int) -> None:
    """chat.jsonl for SFT and pairs.jsonl of about one length for the others, from the embedded world's text."""
    with gzip.open(TINY / "chat.jsonl.gz", "rt", encoding="utf-8") as source:
        rows = [json.loads(line) for line in source]
    packed, prompt, answer = LENGTHS[shape]
    words = " ".join(m["content"] for row in rows[:2000] for m in row["messages"]).split()
    count = steps * 4 + 16  # PPO asks 16 prompts at a time, and holds some out
    with (folder / "chat.jsonl").open("w", encoding="utf-8") as out:
        for place in range(steps * 4):  # each fills about a packed row
            said = words[place * packed // 4 :][: packed // 2]
            turns = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": " ".join(said)}]
            out.write(json.dumps({"messages": turns}) + "\n")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as out:
        for place in range(count):
            asked, *said = (
                " ".join(words[place * 7 + 3 * k :][: size // 2]) for k, size in enumerate((prompt, answer, answer))
            )
            sides = {
                side: [{"role": "assistant", "content": text}]
                for side, text in zip(("chosen", "rejected"), said, strict=True)
            }
            out.write(json.dumps({"prompt": [{"role": "user", "content": asked}], **sides}) + "\n")


def recipe_of(model: Path, rows: Path, shape: str, steps: int) -> dict[str, Any]:
    packed, prompt, answer = LENGTHS[shape]
    train = {"max_steps": steps, "learning_rate": 1e-5, "logging_steps": 1, "save_strategy": "no"}
    train |= {"optim": "paged_adamw_8bit", "bf16": True} if on_gpu() else {"use_cpu": True, "bf16": False}
    shared = {"lora": LORA, "quantization": NF4 | {"bnb_4bit_compute_dtype": "bfloat16" if on_gpu() else "float32"}}
    pairs = {"max_length": 2 * (prompt + answer), "per_device_train_batch_size": 2, "gradient_checkpointing": True}
    return {
        "model": {"path": str(model), "attn_implementation": "sdpa"},
        "seed": 1,
        "stages": [
            {
                "kind": "sft",
                "data": [{"path": str(rows / "chat.jsonl"), "format": "messages"}],
                "rows": {"train_on": "assistant", "on_too_long": "drop"},
                "train": {**train, "max_length": packed, "packing": True, "per_device_train_batch_size": 1},
                **shared,
            },
            {
                "kind": "dpo",
                "data": [{"path": str(rows / "pairs.jsonl"), "format": "preference"}],
                "train": train | pairs,
                **shared,
            },
            {
                "kind": "reward",
                "data": [{"path": str(rows / "pairs.jsonl"), "format": "preference"}],
                "reward": {"margin": "none"},
                "train": train | pairs,
                **shared,
            },
            {
                "kind": "ppo",
                "inputs": {"helpful": "$reward", "critic": "$reward"},
                "data": [{"path": str(rows / "pairs.jsonl"), "format": "preference"}],
                "guard": {"cut": 1.0},  # a policy of random weights ends no answer
                "train": {
                    **{key: value for key, value in train.items() if key != "save_strategy"},
                    **{"max_steps": 2 * steps, "eval_steps": 2 * steps, "save_steps": 2 * steps},
                    **{"max_completion_length": answer, "gradient_checkpointing": True},
                    **{"generation_batch_size": 16, "rollout_batch_size": 16, "per_device_train_batch_size": A_STEP},
                },
                **shared,
            },
        ],
    }


def watched(to: Path, work: Any) -> None:
    """Do `work` with a clock in every Trainer, and write what it took."""
    import torch
    from transformers import TrainerCallback, trainer

    seen: list[tuple[float, float]] = []
    steps: list[float] = []

    peaks: dict[str, float] = {}

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            if on_gpu():
                torch.cuda.reset_peak_memory_stats()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            if on_gpu():
                most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
                peaks.update(peak=most[0] / GIB, reserved=most[1] / GIB)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "num_tokens" in (logs or {}):
                seen.append((time.perf_counter(), float(logs["num_tokens"])))

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(time.perf_counter())

    trainer.DEFAULT_CALLBACKS.append(Clock)
    try:
        work()
    except torch.OutOfMemoryError:
        sys.exit(OUT_OF_MEMORY)
    timed = seen[WARM - 1 :]
    speed = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0]) if len(timed) > 1 else None
    used = {"steps/s": (len(steps) - WARM) / (steps[-1] - steps[WARM - 1])}
    to.write_text(json.dumps({"tokens/s": speed, **used, **peaks}), encoding="utf-8")


def limit(gib: float | None) -> None:
    import torch

    if gib:
        torch.cuda.set_per_process_memory_fraction(gib * GIB / torch.cuda.get_device_properties(0).total_memory)


def train_with_trl(recipe: dict[str, Any], kind: str) -> None:
    """What TRL's documentation would have one write for the same stage."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    stage = next(stage for stage in recipe["stages"] if stage["kind"] == kind)
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    config, make = {
        "sft": (SFTConfig, SFTTrainer),
        "dpo": (DPOConfig, DPOTrainer),
        "reward": (RewardConfig, RewardTrainer),
    }[kind]
    tokenizer = AutoTokenizer.from_pretrained(recipe["model"]["path"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = auto.from_pretrained(
        recipe["model"]["path"],
        dtype=torch.bfloat16 if on_gpu() else torch.float32,
        attn_implementation="sdpa",
        quantization_config=BitsAndBytesConfig(**stage["quantization"]),
        device_map={"": 0 if on_gpu() else "cpu"},
        **({"num_labels": 1} if kind == "reward" else {}),
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(
            model=model,
            args=config(output_dir=folder, seed=1, disable_tqdm=True, **stage["train"]),
            train_dataset=load_dataset("json", data_files=stage["data"][0]["path"], split="train", cache_dir=folder),
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA, task_type="SEQ_CLS" if kind == "reward" else "CAUSAL_LM"),
        )
        if not on_gpu():  # TRL casts adapters and head to bfloat16, which works under a GPU's autocast only
            for parameter in trainer.model.parameters():
                parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        trainer.train()


def in_a_process(command: list[str], to: Path) -> dict[str, Any] | None:
    """What the measurement wrote; None when it ran out of memory. Its talk goes to stderr."""
    done = subprocess.run([*command, "--measure", str(to)], env=os.environ | ENVIRONMENT, stdout=sys.stderr)
    if done.returncode == OUT_OF_MEMORY:
        return None
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {done.returncode}")
    return json.loads(to.read_text(encoding="utf-8"))


def measured(side: str, given: list[str], caps: list[float | None], to: Path) -> dict[str, Any]:
    """The run under the smallest cap that holds it; a side without a command is not installed."""
    if not given:
        return {"side": side, "cap": None, "tokens/s": None, "not_installed": True}
    for cap in caps:
        found = in_a_process([*given, *(["--cap", str(cap)] if cap else [])], to)
        if found:
            return {"side": side, "cap": cap, **found}
    return {"side": side, "cap": None, "tokens/s": None, "out_of_memory": True}


def compare(options: argparse.Namespace, folder: Path) -> None:
    from ft.recipe import read
    from ft.results.store import plan
    from ft.run.rows import prepare_rows
    from ft.stages import STAGES

    make_model(folder / "model", options.shape)
    make_rows(folder, options.shape, options.steps)
    recipe = recipe_of(folder / "model", folder, options.shape, options.steps)
    file = folder / "gpu.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    there = plan(read(file, STAGES), folder / "runs")
    caps = [*sorted(options.caps), None] if on_gpu() else [None]
    found = []
    for kind in options.stages:
        planned = there.stage(kind)
        prepare_rows(there, planned)
        planned.folder.mkdir(parents=True)
        said = estimate(there, planned)
        here = [sys.executable, str(Path(__file__))]
        given = {
            "ft": [*here, "--job", str(there.job(planned).write())],
            "trl": [*here, "--recipe", str(file), "--kind", kind],
            "unsloth": by_unsloth(recipe, kind),
        }
        for side in [side for side in SIDES[kind] if side in options.sides]:
            result = measured(side, given[side], caps, folder / f"{kind}-{side}.json")
            found.append({"stage": kind, **result, "mfu": mfu(result["tokens/s"], options.shape)})
            if side == "ft":
                found[-1] |= {"estimate": said}
            print(line(found[-1]), flush=True)
            write(options, found)  # each as it comes: a GPU is often lent for minutes


def write(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    if options.json:
        options.json.write_text(
            json.dumps({"device": card(), "shape": options.shape, "results": results}, indent=1), encoding="utf-8"
        )


def by_unsloth(recipe: dict[str, Any], kind: str) -> list[str]:
    """The command that trains the stage with Unsloth; empty where its environment is not named."""
    if UNSLOTH not in os.environ or not on_gpu():
        return []
    stage = next(stage for stage in recipe["stages"] if stage["kind"] == kind)
    peer = Path(__file__).with_name("unsloth_peer.py")
    return [os.environ[UNSLOTH], str(peer), "--stage", json.dumps(stage), "--model", recipe["model"]["path"]]


def estimate(there: Any, planned: Any) -> float | None:
    """GiB of tensors at the fullest moment of training, as `ft plan --gpu` counts them."""
    from ft.fit.gpus import Gpu, gpu_here
    from ft.fit.probe import TRAINING_MOMENTS
    from ft.fit.sharding import Sharding
    from ft.fit.table import fit_plan

    here = gpu_here() if on_gpu() else Gpu(card(), 80)
    row = next(row for row in fit_plan(there, here, Sharding()).rows if row.planned.name == planned.name)
    return max((one.tensors / GIB for one in row.fit.moments if one.name in TRAINING_MOMENTS), default=None)


def mfu(speed: float | None, shape: str) -> float | None:
    """Share of the card's dense bf16 peak; None where the card's peak is not known here."""
    peak = next((value for name, value in PEAKS.items() if name in card()), None)
    if not peak or not speed:
        return None
    size = SHAPES[shape]
    width, inner = size["hidden_size"], size["intermediate_size"]
    parameters = size["num_hidden_layers"] * (4 * width * width + 3 * width * inner) + width * 32000
    return 4 * parameters * speed / peak


def card() -> str:
    import torch

    return torch.cuda.get_device_name(0) if on_gpu() else "no GPU"


def line(result: dict[str, Any]) -> str:
    speed, cap, peak = result["tokens/s"], result["cap"], result.get("peak")
    words = [f"{result['stage']:8}{result['side']:8}", f"{speed:,.0f} tokens/s" if speed else ""]
    if result["stage"] == "ppo":
        words[1] = f"{A_STEP * result['steps/s']:.2f} answers/s"
    if result.get("not_installed"):
        return f"{words[0]}  not installed ({UNSLOTH})"
    if result.get("out_of_memory"):
        return f"{words[0]}  does not fit"
    words += [f"peak {peak:.2f} GiB"] if peak else []
    if peak and result.get("estimate"):
        words += [f"estimate {result['estimate']:.2f} GiB ({result['estimate'] / peak - 1:+.1%})"]
    words += [f"under a cap of {cap:g} GiB"] if cap else []
    words += [f"MFU {result['mfu']:.0%}"] if result["mfu"] else []
    return "  ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--stages", nargs="+", default=["sft", "dpo", "reward", "ppo"])
    parser.add_argument("--sides", nargs="+", choices=SIDES["sft"], default=SIDES["sft"])
    parser.add_argument("--caps", nargs="+", type=float, default=[12.0, 16.0, 24.0], metavar="GIB")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE")
    for name in ("--measure", "--job", "--recipe", "--kind"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--cap", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options)
    if options.shape != "tiny" and not on_gpu():
        sys.exit("there is no GPU here; `--shape tiny` shows that everything works")
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))
    return None


def measure(options: argparse.Namespace) -> None:
    limit(options.cap)
    if options.job:
        from ft.run.stage import make_stage

        return watched(Path(options.measure), lambda: make_stage(Path(options.job)))
    recipe = yaml.safe_load(Path(options.recipe).read_text(encoding="utf-8"))
    return watched(Path(options.measure), lambda: train_with_trl(recipe, options.kind))


if __name__ == "__main__":
    main()
