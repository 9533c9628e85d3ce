"""Supervised fine-tuning on prepared rows, whole, by LoRA or by QLoRA; `pretrain` is the same on plain documents."""

from __future__ import annotations

from typing import Any

from ft.data.chat import Renderer
from ft.data.prepare import eval_rows, train_rows
from ft.errors import fail
from ft.models.device import compute_dtype, device_arguments
from ft.models.load import adapters_in_float32, save_lineage, share, start, tokenizer_of
from ft.stages.job import Job
from ft.stages.pictures import loss_curve


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    from transformers import PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from ft.trainers.callbacks import MetricsFile, ShownProgress, read_metrics
    from ft.trainers.packing import refuse_leaks

    assert job.rows is not None
    train, lora, quantization = job.block("train"), job.blocks.get("lora"), job.blocks.get("quantization")
    held_out = eval_rows(job.rows)
    _evaluation_has_rows(job, held_out)
    config = SFTConfig(
        **train,
        **device_arguments(train, job.where),
        output_dir=str(job.checkpoints),
        seed=job.seed,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ready; TRL would cut and filter
    )
    set_seed(job.seed)
    tokenizer = tokenizer_of(job.model, job.init, job.template)
    model = start(job.model, job.init, lora, quantization, compute_dtype(config), config.use_cpu)
    if tokenizer.chat_template and job.kind == "sft":
        model.generation_config.eos_token_id = list(Renderer(tokenizer).stop_ids)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=train_rows(job.rows),
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[MetricsFile(job.folder / "metrics.jsonl"), ShownProgress(job.name)],
    )
    trainer.remove_callback(PrinterCallback)  # ShownProgress speaks
    adapters_in_float32(trainer.model)  # TRL casts the adapters of a quantised base to bfloat16
    if config.packing:
        refuse_leaks(trainer.model, trainer.data_collator, job.where)
    numbers = _train(trainer, job)
    if held_out is not None:
        numbers["eval_loss"] = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(job.folder))
    if trainer.is_world_process_zero():
        (job.folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; job.json says the same in words
        if lora is not None:
            save_lineage(job.folder, job.model, job.init, quantization)
        share(job.folder)
        lines = read_metrics(job.folder / "metrics.jsonl")
        loss_curve(lines, job.folder / "loss.png", job.name)
        numbers |= _first_and_last(lines)
    return numbers


def _train(trainer: Any, job: Job) -> dict[str, Any]:
    """Train from the newest complete checkpoint, or from the start."""
    from ft.files import read_json
    from ft.trainers._trl import load_weights
    from ft.trainers.checkpoints import latest

    found = latest(job.checkpoints)
    if found:
        checkpoint, step = found
        # A Trainer resumed at its last step would train one step more.
        if step >= read_json(checkpoint / "trainer_state.json")["max_steps"]:
            load_weights(trainer, checkpoint)
            return {"steps": step}
    trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    return {"steps": trainer.state.global_step}


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
