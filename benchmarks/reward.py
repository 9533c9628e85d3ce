"""Pairs per second and memory of a reward stage; beside it TRL's own RewardTrainer on the same pairs.

    OMP_NUM_THREADS=2 python benchmarks/reward.py [--repeats 7] [--vocabulary 4096] [--json]

A small Llama with random weights and a scalar head is trained in float32 on the CPU on random pairs of fixed lengths,
by the trainer that `kind: reward` uses and by TRL's, from the same weights. What is timed, and how memory is taken, is
told in shared_prefix.py, which does the same for DPO.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from shared_prefix import config_of, main, pairs_of, tokenizer_of

SIDES = ("chosen", "rejected")


def trainer_of(side: str, prompt: int, answer: int, options: argparse.Namespace) -> Any:
    import torch
    from datasets import disable_progress_bars
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    disable_progress_bars()
    torch.manual_seed(1)
    config = config_of(options)
    config.num_labels = 1
    given = {
        "model": LlamaForSequenceClassification(config),
        "args": RewardConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=options.pairs,
            max_length=None,
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        "train_dataset": pairs_of(prompt, answer, options.pairs, options.vocabulary).select_columns(["prompt", *SIDES]),
        "processing_class": tokenizer_of(options.vocabulary),
    }
    trainer = RewardTrainer(**given) if side == "trl" else ours(given)
    if options.gradient_checkpointing:
        trainer.model.activation_checkpointing_enable()
    return trainer


def ours(given: dict[str, Any]) -> Any:
    """The stage's trainer on the same rows, prepared as the stage's are."""
    from ft.models.reward_head import put_head
    from ft.training.dpo.shared_prefix import objection, share_scores
    from ft.training.reward import PairCollator
    from ft.training.trl_compat import ScoreTrainer

    words = given["processing_class"]

    def prepared(row: dict[str, str]) -> dict[str, list[int]]:
        ends = {"prompt": "", **dict.fromkeys(SIDES, words.eos_token)}
        return {f"{name}_ids": words(row[name] + end)["input_ids"] for name, end in ends.items()}

    rows = given["train_dataset"].map(prepared, remove_columns=["prompt", *SIDES])
    put_head(given["model"], new=False)
    trainer = ScoreTrainer(**{**given, "train_dataset": rows}, data_collator=PairCollator(words.pad_token_id))
    share_scores(trainer.model)
    assert objection(trainer.model) is None
    trainer.shares = True
    return trainer


if __name__ == "__main__":
    main(trainer_of, (__doc__ or "").splitlines()[0])
