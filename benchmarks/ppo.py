"""Answers per second and memory of PPO with a critic; beside it the last PPOTrainer of TRL (1.12.0).

    python benchmarks/ppo.py [--updates 4] [--repeats 3] [--json]

TRL removed PPO in 1.13, so its 1.12.0 is downloaded and unpacked into a folder of its own, which only its process sees.
Both sides train the same LoRA on the same policy by the same reward model, in float32 on one CPU thread: a batch of
64 answers to random prompts, four mini-batches, one pass, 32 answers side by side where nothing is learnt and 8 where
it is. TRL holds policy, critic (a LoRA too) and reward model on bases of their own, ours on one. The policies have
random weights, but for how likely an answer is to end at each token:

ending   answers end by themselves, after 13 tokens in the mean with a limit of 48 and prompts of 24, as in `make ppo`
limit    no answer ends, so each is as long as the limit

Each side runs in a process of its own, in turns; medians are compared. A rate is that of the updates behind the first,
by the clock and, for busy machines, by the seconds of CPU; memory is the process's peak above what it took before the
models were loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

SIDES = ("trl", "ours")
BATCH, PARTS, ROWS = 64, 4, 8  # answers a batch, mini-batches of it, and answers side by side in a pass that learns
READ = 32  # answers side by side in a pass that does not learn
WORKS = {"ending": 13, "limit": 0}  # tokens of an answer in the mean; 0: none ends
SIZES = {"updates": 4, "repeats": 3, "prompt": 24, "answer": 48, "vocabulary": 8192, "hidden": 256, "layers": 4}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
SPECIAL = ("<pad>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Parameters = argparse.Namespace


def make(folder: Path, options: Parameters) -> None:
    """Base model, reward model and prompts, drawn once for both sides."""
    import random

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ft.models.lineage import save_lineage
    from ft.models.load import start
    from ft.recipe import ModelSource

    vocabulary = {word: n for n, word in enumerate([*SPECIAL, *(f" w{n}" for n in range(options.vocabulary - 4))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    words.decoder = decoders.Fuse()  # an answer's text is as many tokens again
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<|end|>", extra_special_tokens=list(SPECIAL[1:3])
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 43 // 16,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        pad_token_id=0,
        eos_token_id=3,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    if options.mean:
        _let_answers_end(model, 1 / options.mean)
    model.save_pretrained(folder / "base")
    base = ModelSource(str(folder / "base"))
    judge = start(base, None, LORA, None, "float32", True, scores=True)
    judge.save_pretrained(folder / "judge")
    save_lineage(folder / "judge", base, None, None)
    for name in ("base", "judge"):
        tokenizer.save_pretrained(folder / name)
    draw = random.Random(1)

    def prompt() -> str:
        return " ".join(f"w{draw.randrange(options.vocabulary - 4)}" for _ in range(options.prompt))

    said = [[{"role": "user", "content": prompt()}] for _ in range(BATCH * options.updates)]
    (folder / "prompts.json").write_text(json.dumps(said), encoding="utf-8")


def _let_answers_end(model: Any, chance: float) -> None:
    """Every token's state gets one large component, which the last norm makes the root of the width; by it the head
    gives the end token the same logit everywhere: `chance`, where all others share the rest evenly."""
    import math

    width, vocabulary = model.config.hidden_size, model.config.vocab_size
    model.model.embed_tokens.weight.data[:, 0] = 20.0
    model.lm_head.weight.data[:, 0] = 0.0
    model.lm_head.weight.data[3] = 0.0
    model.lm_head.weight.data[3, 0] = math.log(chance / (1 - chance) * vocabulary) / math.sqrt(width)


def clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """When each step ended, by the clock and in seconds of CPU."""

        def __init__(self) -> None:
            self.ends: list[tuple[float, float]] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append((time.perf_counter(), time.process_time()))

    return Clock()


def common(folder: Path, options: Parameters) -> dict[str, Any]:
    return {
        **{"output_dir": str(folder / "out"), "use_cpu": True, "bf16": False, "report_to": "none"},
        **{"save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True, "gradient_checkpointing": False},
        **{"per_device_train_batch_size": ROWS, "temperature": 1.0},
    }


def ours(folder: Path, options: Parameters) -> list[tuple[float, float]]:
    import torch
    from datasets import Dataset

    from ft.encode.conversation import Renderer
    from ft.models.load import start
    from ft.models.processor import tokenizer_of
    from ft.recipe import ModelSource
    from ft.rl.actor_setup import share_base
    from ft.rl.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(1)
    base = ModelSource(str(folder / "base"))
    actors = share_base(
        start(base, None, LORA, None, "float32", True),
        Renderer(tokenizer_of(base, None), train_on="last"),
        **{"base": base, "quantization": None, "fresh": True, "rewards": {"helpful": folder / "judge"}},
    )
    batch = {"generation_batch_size": BATCH, "max_completion_length": options.answer, "rollout_batch_size": READ}
    batch |= {"gradient_accumulation_steps": BATCH // PARTS // ROWS}
    args = PPOConfig(**common(folder, options), **batch, max_steps=PARTS * options.updates)
    rows = Dataset.from_list(
        [{"prompt": said} for said in json.loads((folder / "prompts.json").read_text(encoding="utf-8"))]
    )
    stamps = clock()
    PPOTrainer(actors, [], args, rows, callbacks=[stamps]).train()
    ends: list[tuple[float, float]] = stamps.ends[PARTS - 1 :: PARTS]
    return ends


def theirs(folder: Path, options: Parameters) -> list[tuple[float, float]]:
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == "1.12.0", trl.__version__
    torch.manual_seed(1)
    path = str(folder / "base")
    words = AutoTokenizer.from_pretrained(path, padding_side="left")

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)

    said = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    ids = words.apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"]
    args = PPOConfig(
        **common(folder, options),
        gradient_accumulation_steps=BATCH // ROWS,  # its batch is what accumulates; mini-batches are parts of that
        **{"num_mini_batches": PARTS, "num_ppo_epochs": 1, "local_rollout_forward_batch_size": READ},
        **{"total_episodes": BATCH * options.updates, "response_length": options.answer, "stop_token": "eos"},
        **{"num_sample_generations": 0, "eval_strategy": "no"},
    )
    stamps = clock()
    PPOTrainer(
        args=args,
        processing_class=words,
        model=AutoModelForCausalLM.from_pretrained(path),
        ref_model=None,
        reward_model=PeftModel.from_pretrained(scorer(), str(folder / "judge")).merge_and_unload(),
        value_model=get_peft_model(scorer(), LoraConfig(**LORA, task_type="SEQ_CLS")),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        eval_dataset=Dataset.from_dict({"input_ids": ids[:4]}),
        peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        callbacks=[stamps],
    ).train()
    ends: list[tuple[float, float]] = stamps.ends
    return ends


def measure(side: str, folder: Path, options: Parameters) -> dict[str, float]:
    """Answers a second behind the first update, and MiB at the peak above the imports."""
    import datasets
    import peft  # noqa: F401
    import torch

    if side == "ours":
        import ft.rl.actor_setup
        import ft.rl.ppo  # noqa: F401
        from ft.models.device import keep_freed_memory

        keep_freed_memory()  # as a stage does that `ft run` starts
    else:
        import trl.experimental.ppo  # noqa: F401
    datasets.disable_progress_bars()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = (ours if side == "ours" else theirs)(folder, options)
    answers = BATCH * (len(ends) - 1)
    clock_seconds, cpu_seconds = (last - first for first, last in zip(ends[0], ends[-1], strict=True))
    return {
        "answers/s": round(answers / clock_seconds, 3),
        "answers/CPU s": round(answers / cpu_seconds, 3),
        "MiB": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }


def unpacked(folder: Path) -> Path:
    """TRL 1.12.0 in a folder of its own."""
    download = [sys.executable, "-m", "pip", "download", "-q", "trl==1.12.0", "--no-deps", "-d", str(folder)]
    subprocess.run(download, check=True)
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", *map(str, folder.glob("trl-*.whl")), str(folder)], check=True
    )
    return folder


def one(side: str, folder: Path, options: Parameters) -> dict[str, float]:
    """Measured in a process that sees TRL 1.12.0 only where it is to be measured."""
    path = str(folder / "trl") if side == "trl" else os.environ.get("PYTHONPATH", "")
    sizes = [
        f"--{name}={value}"
        for name, value in vars(options).items()
        if isinstance(value, int) and name not in ("json", "mean")
    ]
    command = [sys.executable, __file__, "--measure", side, "--folder", str(folder), *sizes]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "trl").mkdir()
        unpacked(Path(name) / "trl")
        for work, mean in WORKS.items():
            options.mean = mean
            result = {"work": work, **compared(Path(name), options)}
            print(json.dumps(result) if options.json else shown(result), flush=True)


def compared(folder: Path, options: Parameters) -> dict[str, Any]:
    for made in ("base", "judge"):
        shutil.rmtree(folder / made, ignore_errors=True)
    make(folder, options)
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for turn in range(options.repeats):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            rounds[side].append(one(side, folder, options))
    median = {
        side: {key: statistics.median(r[key] for r in found) for key in found[0]} for side, found in rounds.items()
    }
    ratio = {key: round(median["ours"][key] / median["trl"][key], 2) for key in median["ours"]}
    return {**median, "ratio": ratio, "rounds": rounds}


def shown(result: dict[str, Any]) -> str:
    rows = ((name, result[name]) for name in (*SIDES, "ratio"))
    lines = (f"{name:>7}" + "".join(f"  {value:8.2f} {key}" for key, value in row.items()) for name, row in rows)
    return "\n".join([result["work"], *lines])


if __name__ == "__main__":
    main()
