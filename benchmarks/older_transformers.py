"""What ft leaves, opened by transformers 4.57 and by the one installed: the same token ids, logits and scores.

    pip install --target /tmp/older transformers==4.57.6
    python benchmarks/older_transformers.py --older /tmp/older [--json]

Makes tiny results of each kind that leaves a model (whole, LoRA, QLoRA, reward models, an encoder-decoder), their
exports, and folders of architectures with random weights as ft saves them. Each version reads them in a process of its
own, which imports nothing of ft. Exit code 1 where a folder is refused, or ids differ, or numbers beyond rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROUNDING = 1e-5
QUESTIONS = ("what colour is the frog?", "hello", "1 sky?")
ROPE = {"rope_type": "default", "rope_theta": 5e5}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 16}
LONG = {**ROPE, **FACTORS, "rope_type": "longrope"}
LAYERS = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e5},
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "rope_parameters": ROPE,
}
WINDOW = {"head_dim": 16, "tie_word_embeddings": True, "sliding_window": 8, "query_pre_attn_scalar": 16}
EXPERTS = {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, llama3": ("llama", {"rope_parameters": ROPE | LLAMA3 | {"rope_type": "llama3"}}),
    "llama, linear": ("llama", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}}),
    "llama, dynamic": ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 4.0}}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3, yarn": ("qwen3", {"head_dim": 16, "rope_parameters": ROPE | YARN}),
    "qwen3_moe": ("qwen3_moe", EXPERTS),
    "mistral": ("mistral", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma2": ("gemma2", WINDOW),
    "gemma3": ("gemma3_text", {**WINDOW, "num_hidden_layers": 6, "rope_parameters": LAYERS}),
    "phi3, longrope": ("phi3", {"original_max_position_embeddings": 16, "rope_parameters": LONG}),
    "glm4": ("glm4", {"head_dim": 16, "rope_parameters": ROPE | {"partial_rotary_factor": 0.5}}),
    "stablelm": ("stablelm", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    "smollm3": ("smollm3", {}),
    "gpt2": ("gpt2", {"rope_parameters": None, "tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}),
}
EAGER = {"gemma2"}
"""Whose soft caps are in eager attention alone, which 4.57 does not choose by itself."""
READER = """
import json, sys, torch, transformers
from transformers import AutoTokenizer

CLASSES = {"causal": "CausalLM", "seq2seq": "Seq2SeqLM", "reward": "SequenceClassification"}
folders, out, questions = json.load(open(sys.argv[1])), sys.argv[2], json.loads(sys.argv[3])


def read(kind, folder, attention):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"attn_implementation": attention} if attention else {}
    if kind == "adapter":
        from peft import AutoPeftModelForCausalLM as loader
    else:
        loader = getattr(transformers, "AutoModelFor" + CLASSES[kind])
    model = loader.from_pretrained(folder, dtype=torch.float32, **options).eval()
    answer = [{"role": "assistant", "content": "it is green"}] if kind == "reward" else []
    for question in questions:
        turns = [{"role": "user", "content": question}, *answer]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answer)
        text = text.rstrip("\\n") if answer else text
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        decoder = {"decoder_input_ids": ids[:, :2]} if kind == "seq2seq" else {}
        with torch.no_grad():
            yield ids, model(input_ids=ids, **decoder).logits


found = {}
for name, given in folders.items():
    try:
        found[name] = list(read(*given))
    except Exception as error:
        found[name] = f"{type(error).__name__}: {str(error)[:200]}"
torch.save({"version": transformers.__version__, "found": found}, out)
"""


def make_results(folder: Path) -> dict[str, tuple[str, str]]:
    """Results of stages and their exports: name → (kind of class, folder)."""
    import tiny
    from ft.export.trained_model import TrainedModel
    from ft.export.writing import ExportOptions, export

    data, pairs = tiny.rows(folder / "rows.jsonl"), folder / "pairs.jsonl"
    rows = [
        {"prompt": f"{thing}?", "chosen": colour, "rejected": "mud"}
        for thing, colour in zip(tiny.THINGS, tiny.COLOURS, strict=True)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lora = {"lora": tiny.LORA}
    qlora = {**lora, "quantization": tiny.NF4}
    steps = {"max_steps": 6}
    reward = {**tiny.sft(pairs, steps), "kind": "reward", "reward": {"margin": "none"}}
    stages = {
        "SFT, whole": tiny.sft(data, steps, name="whole"),
        "SFT, LoRA": tiny.sft(data, steps, name="lora", **lora),
        "SFT, QLoRA": tiny.sft(data, steps, name="qlora", **qlora),
        "reward model, whole": {**reward, "name": "scores"},
        "reward model, QLoRA": {**reward, "name": "scores-qlora", **qlora},
    }
    file = tiny.recipe(folder, list(stages.values()), model=str(tiny.base(folder / "base")))
    folders = {"data/tiny/base": ("causal", str(Path(__file__).parents[1] / "data/tiny/base"))}
    for name, stage in stages.items():
        result = tiny.make(tiny.planned(file, folder / "runs"), stage["name"]).folder
        kind = "reward" if stage["kind"] == "reward" else "causal"
        if "QLoRA" not in name:  # a quantised base of another version rounds as its own bitsandbytes does
            folders[name] = ("adapter" if "LoRA" in name else kind, str(result))
        exported = folder / f"exported-{stage['name']}"
        export(TrainedModel.read(result), ExportOptions(exported, dtype="float32"))
        folders[f"{name}, exported"] = (kind, str(exported))
    adapter = folder / "adapter"
    export(TrainedModel.read(Path(folders["SFT, LoRA"][1])), ExportOptions(adapter, adapter=True))
    folders["SFT, LoRA, the adapter exported"] = ("adapter", str(adapter))
    both_ways = tiny.recipe(folder / "t5", [tiny.sft(data, steps)], model=str(tiny.t5(folder / "t5-base")))
    result = tiny.make(tiny.planned(both_ways, folder / "runs-t5"), "sft").folder
    return folders | {"SFT of a T5": ("seq2seq", str(result))}


def make_architectures(folder: Path) -> dict[str, tuple[str, str]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    import tiny
    from ft.models.load import share

    tokenizer, folders = tiny.tokenizer(), {}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for name, (kind, own) in ARCHITECTURES.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **{**SHAPE, **own})
        place = folder / name.replace(", ", "-")
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(str(place))
        tokenizer.save_pretrained(str(place))
        share(place)
        folders[name] = ("causal", str(place))
    return folders


def read_with(older: str | None, folders: dict[str, tuple[str, str]], place: Path) -> dict[str, Any]:
    """What a process with the older libraries before the installed ones finds."""
    import torch

    listed, out = place / "folders.json", place / f"{'older' if older else 'installed'}.pt"
    given = {name: (*entry, "eager" if name in EAGER else None) for name, entry in folders.items()}
    listed.write_text(json.dumps(given), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": older or ""}
    command = [sys.executable, "-c", READER, str(listed), str(out), json.dumps(QUESTIONS)]
    subprocess.run(command, check=True, env=environment, cwd=place, capture_output=True)
    found: dict[str, Any] = torch.load(out)
    return found


def difference(older: Any, installed: Any) -> float | str:
    """The largest difference of logits or scores; in words what is worse."""
    if isinstance(older, str) or isinstance(installed, str):
        return f"refused: {older if isinstance(older, str) else installed}"
    pairs = list(zip(older, installed, strict=True))
    if any(one[0].tolist() != other[0].tolist() for one, other in pairs):
        return "other token ids"
    return max(float((one[1] - other[1]).abs().max()) for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--older", required=True, help="where `pip install --target` put transformers 4.57")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = make_results(place) | make_architectures(place)
        older, installed = read_with(asked.older, folders, place), read_with(None, folders, place)
    found = {name: difference(older["found"][name], installed["found"][name]) for name in folders}
    wrong = [name for name, value in found.items() if isinstance(value, str) or not value <= ROUNDING]
    if asked.json:
        print(json.dumps({"older": older["version"], "installed": installed["version"], "difference": found}))
    else:
        print(f"transformers {older['version']} and {installed['version']}: ids, and the largest difference in logits")
        for name, value in found.items():
            print(f"{name:<34}{value if isinstance(value, str) else f'ids equal, {value:.1e}'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
