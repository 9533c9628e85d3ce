"""Tiny policies, reward models and PPO trainers: weights drawn, not trained, so that every adapter does something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

import tiny
from ft.encode.conversation import Renderer
from ft.models.lineage import save_lineage
from ft.models.load import start
from ft.models.processor import tokenizer_of
from ft.recipe import ModelSource
from ft.rl.actor_setup import separate_models, share_base
from ft.rl.ppo import PPOConfig, PPOTrainer

TRAIN = {
    **{"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"},
    **{"gradient_checkpointing": False, "lr_scheduler_type": "constant", "logging_steps": 1, "seed": 1, "max_steps": 2},
    **{"per_device_train_batch_size": 4, "generation_batch_size": 8, "max_completion_length": 6, "beta": 0.05},
    "learning_rate": 3e-3,
}


def perturb(model: Any, seed: int, size: float = 0.05) -> Any:
    """The model, its trained parameters moved: a LoRA as it is made changes nothing."""
    draw = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        if value.requires_grad:
            value.data += size * torch.randn(value.shape, generator=draw)
    return model


def save_adapter(folder: Path, base: Path, seed: int, quantization: Any = None, scores: bool = False) -> Path:
    """A policy's or a reward model's folder, as a stage leaves it."""
    source = ModelSource(str(base))
    perturb(start(source, None, tiny.LORA, quantization, "float32", True, scores), seed).save_pretrained(str(folder))
    tokenizer_of(source, None, None).save_pretrained(str(folder))
    save_lineage(folder, source, None, quantization)
    return folder


def save_reward_model(folder: Path, base: Path, seed: int, quantization: Any = None) -> Path:
    return save_adapter(folder, base, seed, quantization, scores=True)


def save_whole_reward_model(folder: Path, base: Path, seed: int) -> Path:
    model = perturb(start(ModelSource(str(base)), None, None, None, "float32", True, scores=True), seed, 0.02)
    model.save_pretrained(str(folder))
    tokenizer_of(ModelSource(str(base)), None, None).save_pretrained(str(folder))
    return folder


def shared_base(
    base: Path, init: Path | None = None, quantization: Any = None, critic: Path | None = None, **rewards: Path
) -> Any:
    """All roles on one base."""
    source = ModelSource(str(base))
    torch.manual_seed(0)
    model = start(source, init, tiny.LORA, quantization, "float32", True)
    renderer = Renderer(tokenizer_of(source, None, None), train_on="last")
    return share_base(
        model, renderer, base=source, quantization=quantization, fresh=init is None, critic=critic, rewards=rewards
    )


def end_early(actors: Any) -> Any:
    """The actors, letting a third of all tokens end an answer: with weights that are drawn, one seldom ends."""
    actors.renderer.stop_ids = (*actors.renderer.stop_ids, *range(80))
    return actors


def separate(base: Path, **rewards: Path) -> Any:
    """Whole models, each its own."""
    source = ModelSource(str(base))
    torch.manual_seed(0)
    policy, reference = (start(source, None, None, None, "float32", True) for _ in range(2))
    critic = start(source, None, None, None, "float32", True, scores=True)
    renderer = Renderer(tokenizer_of(source, None, None), train_on="last")
    return separate_models(policy, renderer, reference=reference, critic=critic, rewards=rewards)


def prompts(count: int = 16) -> list[dict[str, Any]]:
    """Every fourth is marked for safety."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{n} {tiny.THINGS[n % 8]}?"}],
            "axis": "helpful" if n % 4 else "safety",
        }
        for n in range(count)
    ]


def share_of_e(prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float]:
    """How much of the answer is the letter e."""
    return [text.count("e") / max(1, len(text)) for text in (completion[-1]["content"] for completion in completions)]


def sum_of_ids(prompts: Any, completions: Any, completion_ids: Sequence[list[int]], **columns: Any) -> list[float]:
    """Another number for almost every answer, and no sense: everything that learns gets a gradient."""
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def ppo_trainer(
    actors: Any, folder: Path, train: Mapping[str, Any] | None = None, functions: Any = (share_of_e,), count: int = 16
) -> PPOTrainer:
    args = PPOConfig(**{**TRAIN, "output_dir": str(folder), **(train or {})})
    rows = Dataset.from_list(prompts(count))
    return PPOTrainer(actors, list(functions), args, rows, rows.select(range(5)))


def trained_parameters(trainer: Any) -> dict[str, torch.Tensor]:
    """The policy's and the critic's parameters."""
    named = trainer.model.named_parameters()
    return {name: value.detach().clone() for name, value in named if ".default." in name or "critic" in name}


def max_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def log_without_times(trainer: Any) -> list[dict[str, Any]]:
    timed = ("time", "second", "flos", "train_loss")
    lines = trainer.state.log_history
    return [{key: value for key, value in line.items() if not any(word in key for word in timed)} for line in lines]
