"""Supervised fine-tuning on prepared rows, whole, by LoRA or by QLoRA; `pretrain` is the same on plain documents."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from ft.data.chat import Renderer
from ft.data.prepare import eval_rows, train_rows
from ft.errors import fail
from ft.models.device import compute_dtype, device_arguments
from ft.models.load import adapters_kept, save_lineage, share, start, tokenizer_of
from ft.stages.job import Job
from ft.stages.pictures import loss_curve

METRICS = "metrics.jsonl"


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    return train_and_save(trainer_of(job), job)


def trainer_of(job: Job) -> Any:
    """The SFTTrainer, ready to train: model, prepared rows, and what ft watches while it trains."""
    from transformers import PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from ft.trainers._trl import TokenCount
    from ft.trainers.callbacks import MetricsFile, ShownProgress
    from ft.trainers.packing import refuse_leaks

    assert job.rows is not None
    train, held_out = job.block("train"), eval_rows(job.rows)
    _evaluation_has_rows(job, held_out)
    config = SFTConfig(
        **{**train, **device_arguments(train, job.where)},
        output_dir=str(job.checkpoints),
        seed=job.seed,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ready; TRL would cut and filter
    )
    set_seed(job.seed)
    tokenizer = tokenizer_of(job.model, job.init, job.template)
    lora, quantization = job.blocks.get("lora"), job.blocks.get("quantization")
    model = start(job.model, job.init, lora, quantization, compute_dtype(config), config.use_cpu)
    if tokenizer.chat_template and job.kind == "sft":
        model.generation_config.eos_token_id = list(Renderer(tokenizer).stop_ids)
    with adapters_kept(model) if lora else nullcontext():
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=train_rows(job.rows),
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=[MetricsFile(job.folder / METRICS), ShownProgress(job.name)],
        )
    trainer.add_callback(TokenCount(trainer))
    trainer.remove_callback(PrinterCallback)  # ShownProgress speaks
    if config.packing:
        refuse_leaks(trainer.model, trainer.data_collator, job.where)
    return trainer


def train_and_save(trainer: Any, job: Job) -> dict[str, Any]:
    """Train, or go on training; leave the result in the job's folder."""
    from ft.trainers.callbacks import read_metrics

    numbers: dict[str, Any] = {"steps": _train(trainer, job)}
    if trainer.eval_dataset is not None:
        numbers["eval_loss"] = _final_loss(trainer)
    trainer.save_model(str(job.folder))
    if trainer.is_world_process_zero():
        (job.folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; job.json says the same in words
        if "lora" in job.blocks:
            save_lineage(job.folder, job.model, job.init, job.blocks.get("quantization"))
        share(job.folder)
        lines = read_metrics(job.folder / METRICS)
        loss_curve(lines, job.folder / "loss.png", job.name)
        numbers |= _first_and_last(lines)
    return numbers


def _train(trainer: Any, job: Job) -> int:
    """Train from the newest complete checkpoint, or from the start; the number of steps made in all."""
    from transformers import TrainerState

    from ft.trainers._trl import load_weights
    from ft.trainers.callbacks import MetricsFile
    from ft.trainers.checkpoints import latest

    found = latest(job.checkpoints)
    if not found:
        trainer.train()
        return int(trainer.state.global_step)
    checkpoint, step = found
    trainer.args.eval_on_start = False  # made and written down before the interruption
    reached = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if step < reached.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return int(trainer.state.global_step)
    # A Trainer resumed at its last step would train one step more.
    best = trainer.args.load_best_model_at_end and reached.best_global_step
    load_weights(trainer, job.checkpoints / f"checkpoint-{best}" if best else checkpoint)
    for name in ("global_step", "epoch", "max_steps", "log_history"):
        setattr(trainer.state, name, getattr(reached, name))
    if trainer.is_world_process_zero():
        MetricsFile(job.folder / METRICS).rewrite(reached)
    return step


def _final_loss(trainer: Any) -> float:
    """Held-out loss of the weights that are kept; measured, unless the last step's evaluation has just done so."""
    last = next((line for line in reversed(trainer.state.log_history) if "eval_loss" in line), None)
    if last and last["step"] == trainer.state.global_step and not trainer.args.load_best_model_at_end:
        return float(last["eval_loss"])
    return float(trainer.evaluate()["eval_loss"])


def _first_and_last(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The ends of the curve, for people: did it learn?"""
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [line["eval_loss"] for line in lines if "eval_loss" in line]
    found = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
    if held_out:
        found |= {"eval_loss_first": held_out[0]}
    tokens = [line["num_tokens"] for line in lines if "num_tokens" in line]
    return found | ({"tokens": tokens[-1]} if tokens else {})


def _evaluation_has_rows(job: Job, held_out: Any) -> None:
    asked = job.block("train").get("eval_strategy", "no") != "no" or job.block("train").get("eval_on_start")
    if asked and held_out is None:
        fix = "Write `rows: {eval_fraction: 0.05}` or `eval_data:`."
        raise fail(job.where, "evaluation is asked for, and no row is held out", fix)
