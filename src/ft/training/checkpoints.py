"""Which checkpoint a run may continue from.

Each has a manifest of its files, written last. One whose files differ from it is set aside and told of, and the next
older one is taken: a Trainer itself would go on without an optimizer, or with other weights, and say nothing.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ft import artifacts
from ft.files import free_name, read_json, read_mapping
from ft.manifest import find_damage, has_manifest, write_manifest

log = logging.getLogger(__name__)

# What a Trainer cannot go on from bit by bit without, under the names that it, FSDP and DeepSpeed write.
PARTS = {
    "the model's configuration": (artifacts.CONFIG, artifacts.ADAPTER_CONFIG),
    "weights": ("*.safetensors", "pytorch_model*", "global_step*"),
    "the optimizer's state": ("optimizer*", "global_step*"),
    "the scheduler's state": ("scheduler.pt", "global_step*"),
    "the state of random numbers": ("rng_state*",),
}


class Manifests(TrainerCallback):
    """Writes the manifest of each checkpoint. Added last, so that what other callbacks save is in it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.best_global_step:  # a checkpoint has its absolute path, which a copied folder no longer has
            state.best_model_checkpoint = str(Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        args.distributed_state.wait_for_everyone()  # each process has written files of its own
        if state.is_world_process_zero:
            write_manifest(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")


def latest(folder: Path, keeps_best: bool = False) -> Path | None:
    """The newest checkpoint that a run can continue from; one that `keeps_best` also needs the best one so far.

    Newer ones with damage are set aside, and said to be. One that a kill left unfinished is passed over, and written
    again.
    """
    for checkpoint in reversed(artifacts.checkpoints(folder)):
        if not (checkpoint / artifacts.TRAINER_STATE).exists():
            continue
        damage = checkpoint_damage(checkpoint) or (_damage_of_best(checkpoint) if keeps_best else "")
        if not damage:
            return checkpoint
        aside = free_name(checkpoint.with_name(f"damaged-{checkpoint.name}"), ".")
        checkpoint.rename(aside)
        log.warning("%s: %s. It is now %s, and an older checkpoint serves.", checkpoint, damage, aside.name)
    return None


def checkpoint_damage(checkpoint: Path) -> str:
    """Why a run cannot continue from it, in words; "" where it can."""
    damage = find_damage(checkpoint) if has_manifest(checkpoint) else _damage_by_form(checkpoint)
    state = read_mapping(checkpoint / artifacts.TRAINER_STATE)
    if not damage and state.get("global_step") != artifacts.checkpoint_step(checkpoint):
        return f"{artifacts.TRAINER_STATE} is not of its step"
    return damage


def _damage_of_best(checkpoint: Path) -> str:
    step = read_mapping(checkpoint / artifacts.TRAINER_STATE).get("best_global_step")
    best = checkpoint.with_name(f"checkpoint-{step}")
    if not step or best == checkpoint or (best.is_dir() and not checkpoint_damage(best)):
        return ""
    return f"{best.name}, the best so far, is missing or damaged"


def _damage_by_form(checkpoint: Path) -> str:
    """The same of a checkpoint without a manifest, as all were once: files are as long as their formats say."""
    for part, names in PARTS.items():
        if not any(any(checkpoint.glob(name)) for name in names):
            return f"{part} is missing"
    state = read_mapping(checkpoint / artifacts.TRAINER_STATE)
    if not isinstance(state.get("max_steps"), int) or not isinstance(state.get("log_history"), list):
        return f"{artifacts.TRAINER_STATE} is not what was written"
    broken = next((file.name for file in sorted(checkpoint.iterdir()) if not _is_whole(file)), "")
    return f"{broken} is cut short" if broken else ""


def _is_whole(file: Path) -> bool:
    """Weights are as long as their header says, and PyTorch's files, which are zip files, have their end."""
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".safetensors":
        try:
            with safe_open(str(file), framework="pt"):
                return True
        except SafetensorError:
            return False
    if file.suffix == ".json":
        return read_json(file) is not None
    return file.suffix not in (".pt", ".pth") or zipfile.is_zipfile(file)
