"""Pairs per second and memory of DPO with shared prefixes; beside it TRL's own DPOTrainer on the same pairs.

    OMP_NUM_THREADS=2 python benchmarks/shared_prefix.py [--repeats 7] [--vocabulary 4096] [--json]

A small Llama with random weights is trained in float32 on the CPU on random pairs of fixed lengths. Both sides are
`DPOTrainer` with the same settings, reference log-probabilities in the rows; what is timed is one forward and backward
of the same batch, in turns, and the medians are compared. No row is padded, which suits the peer: its
attention then needs no mask. The limit is the ratio of the tokens both sides compute. Peak memory is that of a process
of its own for each side; "before" is what it took to load everything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

SHAPES = ((512, 64), (128, 256))  # tokens of a prompt, of an answer
SIDES = ("trl", "shared")

Maker = Callable[[str, int, int, argparse.Namespace], Any]
"""Makes one side's trainer for prompts and answers of so many tokens; benchmarks/reward.py has another."""


def pairs_of(prompt: int, answer: int, count: int, vocabulary: int) -> Any:
    """Random words, one token each; DPOTrainer appends EOS to an answer."""
    from datasets import Dataset

    words = random.Random(1)

    def text(tokens: int) -> str:
        return "".join(f" w{words.randrange(vocabulary - 2)}" for _ in range(tokens))

    rows = [{"prompt": text(prompt), "chosen": text(answer - 1), "rejected": text(answer - 1)} for _ in range(count)]
    reference = {f"ref_{side}_logps": -answer * math.log(vocabulary) for side in ("chosen", "rejected")}
    return Dataset.from_list([{**row, **reference} for row in rows])


def tokenizer_of(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"<pad>": 0, " </s>": 1, **{f" w{number}": number + 2 for number in range(vocabulary - 2)}}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token=" </s>")


def config_of(options: argparse.Namespace) -> Any:
    """Llama-2's proportions in the size asked for."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 43 // 16,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        max_position_embeddings=2048,
        pad_token_id=0,
    )


def trainer_of(side: str, prompt: int, answer: int, options: argparse.Namespace) -> Any:
    import torch
    from datasets import disable_progress_bars
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    from ft.training.dpo.shared_prefix import objection, share_logps

    class SharedPrefixDPO(DPOTrainer):
        """The whole of what a trainer adds: its batches are pairs."""

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            return super()._compute_loss(model, {**inputs, "pairs": True}, return_outputs)

    disable_progress_bars()
    torch.manual_seed(1)
    trainer = (SharedPrefixDPO if side == "shared" else DPOTrainer)(
        model=LlamaForCausalLM(config_of(options)),
        ref_model=LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=32, num_hidden_layers=0)),  # never asked
        args=DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=options.pairs,
            max_length=None,
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        train_dataset=pairs_of(prompt, answer, options.pairs, options.vocabulary),
        processing_class=tokenizer_of(options.vocabulary),
    )
    trainer.precompute_ref_logps = True  # read from the rows
    if options.gradient_checkpointing:
        trainer.model.activation_checkpointing_enable()
    if side == "shared":
        share_logps(trainer.model)
        assert objection(trainer.model) is None
    return trainer


def step(trainer: Any, batch: Any) -> tuple[float, float]:
    """Seconds and loss of one forward and backward."""
    trainer.model.zero_grad()
    start = time.perf_counter()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    return time.perf_counter() - start, loss.item()


def compare(make: Maker, prompt: int, answer: int, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    trainers = {side: make(side, prompt, answer, options) for side in SIDES}
    batches = {side: next(iter(trainers[side].get_train_dataloader())) for side in SIDES}
    assert batches["trl"]["input_ids"].shape == (2 * options.pairs, prompt + answer)
    losses = {side: step(trainers[side], batches[side])[1] for side in SIDES}
    gradients = {side: torch.cat([w.grad.flatten() for w in trainers[side].model.parameters()]) for side in SIDES}
    apart = (gradients["trl"] - gradients["shared"]).norm() / gradients["trl"].norm()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(options.repeats):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            seconds[side].append(step(trainers[side], batches[side])[0])
    median = {side: statistics.median(seconds[side]) for side in SIDES}
    return {
        "prompt": prompt,
        "answer": answer,
        **{f"{side} pairs/s": round(options.pairs / median[side], 3) for side in SIDES},
        "ratio": round(median["trl"] / median["shared"], 2),
        "limit": round(2 * (prompt + answer) / (prompt + 2 * answer), 2),
        "loss difference": abs(losses["trl"] - losses["shared"]),
        "gradient difference": apart.item(),
    }


def memory(make: Maker, side: str, prompt: int, answer: int, options: argparse.Namespace) -> dict[str, int]:
    """MiB at the peak of this process, and before the first step."""
    trainer = make(side, prompt, answer, options)
    batch = next(iter(trainer.get_train_dataloader()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(trainer, batch)
    return {"before": before // 1024, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def in_a_process(arguments: list[str]) -> Any:
    command = [sys.executable, *sys.argv, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main(make: Maker, about: str) -> None:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--pairs", type=int, default=4, help="in a batch")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(make, options.memory_of, *options.shape, options)))
        return
    if options.shape:
        print(json.dumps(compare(make, *options.shape, options)))
        return
    for shape in SHAPES:
        arguments = ["--shape", *map(str, shape)]
        result = in_a_process(arguments)
        for side in SIDES:
            used = in_a_process([*arguments, "--memory-of", side])
            result[f"{side} MiB"] = used["peak"]
            result[f"{side} MiB before"] = used["before"]
        print(json.dumps(result) if options.json else "  ".join(f"{name} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main(trainer_of, (__doc__ or "").splitlines()[0])
