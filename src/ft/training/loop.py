"""What every stage that trains does around its trainer: arguments, model, going on after an interruption, saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft import artifacts
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.families import family_of
from ft.figures.training import curve_files
from ft.figures.write import write_figures
from ft.models.device import compute_dtype, device_arguments
from ft.models.limits import check_prepared_rows
from ft.models.lineage import save_lineage
from ft.models.load import share, start
from ft.models.processor import tokenizer_of
from ft.recipe.batch import A_DEVICE, accumulation
from ft.recipe.job import Job
from ft.training.stage_trainer import StageTrainer
from ft.training.trackers import follow_runs, tracker_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments

KEPT_STATE = (
    *("global_step", "epoch", "max_steps", "log_history", "best_global_step", "best_metric"),
    "num_input_tokens_seen",
)
"""What a finished trainer's state holds that its last checkpoint knows."""


EXPERTS = {name: name for name in ("expert_load_entropy", "dead_experts")}
MARGINS = {  # log-probabilities in nats
    "rewards/accuracies": "accuracies",
    "labels/accuracies": "accuracies",
    "rewards/margins": "margins",
    "logps/chosen": "logps_chosen",
    "logps/rejected": "logps_rejected",
}


def arguments(job: Job, config: type, **given: Any) -> Any:
    """The trainer's arguments: the recipe's, what the machine asks for, and what the stage gives."""
    train = job.block("train")
    places = {"output_dir": str(job.checkpoints), "seed": job.seed, "disable_tqdm": True}
    places |= tracker_arguments(job.folder, train)
    places["logging_nan_inf_filter"] = False  # which puts an average in the place of a loss that is NaN
    if job.global_batch:
        given["gradient_accumulation_steps"] = accumulation(job.global_batch, train[A_DEVICE], job.processes)
    return config(**{**train, **device_arguments(train, job.where), **places, **given})


def policy(job: Job, config: TrainingArguments, ends_turns: bool = True) -> tuple[Any, Any]:
    """The model a stage trains, seeded, and its tokenizer.

    `ends_turns`: whether the model's own generation ends where the chat template ends a turn.
    """
    from transformers import set_seed

    set_seed(job.seed)
    tokenizer = tokenizer_of(job.model, job.init, job.template)
    lora, quantization = job.blocks.get("lora"), job.blocks.get("quantization")
    model = start(job.model, job.init, lora, quantization, compute_dtype(config), config.use_cpu)
    if job.rows:
        check_prepared_rows(model, job.rows, job.where)
    if tokenizer.chat_template and ends_turns:
        model.generation_config.eos_token_id = list(Renderer(tokenizer).stop_ids)
    return model, tokenizer


def add_callbacks(trainer: StageTrainer, job: Job, shown: Mapping[str, str] | None = None) -> Any:
    """The trainer with what ft records and shows while it trains: of the log, the values that `shown` names."""
    from transformers import PrinterCallback

    from ft.training.callbacks import LOSSES, MetricsFile, Resources, ShownProgress
    from ft.training.experts import log_expert_load
    from ft.training.finite import stop_at_non_finite
    from ft.training.held_out import measure_over_rows
    from ft.training.optimizer import try_optimizer
    from ft.training.structure import check_structure
    from ft.training.trl_compat import carry_token_count, order_by_seed_and_epoch

    if trainer.is_world_process_zero():
        check_structure(trainer.model, job)
    try_optimizer(trainer.args, trainer.model, job.where)
    order_by_seed_and_epoch(trainer, job.processes)
    stop_at_non_finite(trainer, job.where)
    measure_over_rows(trainer, job.rows is not None)
    log_expert_load(trainer)
    progress = ShownProgress(job.name, shown or LOSSES)
    for callback in (Resources(), MetricsFile(job.folder / artifacts.METRICS), progress):
        trainer.add_callback(callback)
    carry_token_count(trainer)
    follow_runs(trainer, job)
    trainer.remove_callback(PrinterCallback)  # ShownProgress speaks
    return trainer


def train_and_save(trainer: StageTrainer, job: Job) -> dict[str, Any]:
    """Train, or go on training; leave the result in the job's folder."""
    from ft.files import read_lines
    from ft.training.trl_compat import trained_tokens

    numbers: dict[str, Any] = {"steps": train(trainer, job)}
    if tokens := trained_tokens(trainer):
        numbers["tokens"] = tokens
    if trainer.eval_dataset is not None:
        numbers["eval_loss"] = _final_loss(trainer)
    save(trainer, job)
    if trainer.is_world_process_zero():
        lines = read_lines(job.folder / artifacts.METRICS)
        draw_curves(job)
        numbers |= _first_and_last(lines) | last_values(lines, EXPERTS)
    return numbers


def train_on_preferences(trainer: StageTrainer, job: Job) -> dict[str, Any]:
    """The same, with where the margins of preferences ended."""
    from ft.files import read_lines

    numbers = train_and_save(trainer, job)
    if trainer.is_world_process_zero():
        numbers |= last_values(read_lines(job.folder / artifacts.METRICS), MARGINS)
    return numbers


def draw_curves(job: Job) -> None:
    """curves.svg: what was logged while it trained, as the report shows it."""
    write_figures(job, curve_files)


def save(trainer: StageTrainer, job: Job) -> None:
    """Leave a folder that `from_pretrained` opens, with its lineage where it is an adapter."""
    from ft.training.finite import refuse_broken_result

    refuse_broken_result(trainer.model, job.where, trainer.state.global_step)
    trainer.save_model(str(job.folder))
    if trainer.is_world_process_zero():
        family_of(trainer.model.config, job.where).save_processor(trainer.processing_class, str(job.folder))
        (job.folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; job.json says the same in words
        if "lora" in job.blocks:
            save_lineage(job.folder, job.model, job.init, job.blocks.get("quantization"))
        share(job.folder)


def train(trainer: StageTrainer, job: Job) -> int:
    """Train from the newest checkpoint, or from the start; the number of steps made in all."""
    from transformers import TrainerState

    from ft.training.callbacks import MetricsFile
    from ft.training.checkpoints import Manifests, latest
    from ft.training.trl_compat import load_weights, restore_token_count

    trainer.add_callback(Manifests())
    with trainer.args.main_process_first(local=False):  # the first sets damaged ones aside
        checkpoint = latest(job.checkpoints, trainer.args.load_best_model_at_end)
    if checkpoint is None:
        trainer.train()
        return int(trainer.state.global_step)
    trainer.args.eval_on_start = False  # made and written down before the interruption
    state = TrainerState.load_from_json(str(checkpoint / artifacts.TRAINER_STATE))
    if state.global_step < state.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return int(trainer.state.global_step)
    # A Trainer resumed at its last step would train one step more.
    best = trainer.args.load_best_model_at_end and state.best_global_step
    load_weights(trainer, job.checkpoints / f"checkpoint-{best}" if best else checkpoint)
    for name in KEPT_STATE:
        setattr(trainer.state, name, getattr(state, name))
    restore_token_count(trainer, state)
    if trainer.is_world_process_zero():
        MetricsFile(job.folder / artifacts.METRICS).rewrite(state)
    return int(state.global_step)


def _final_loss(trainer: StageTrainer) -> float:
    """Held-out loss of the weights that are kept; measured, unless the last step's evaluation has just done so."""
    last = next((line for line in reversed(trainer.state.log_history) if "eval_loss" in line), None)
    if last and last["step"] == trainer.state.global_step and not trainer.args.load_best_model_at_end:
        return float(last["eval_loss"])
    return float(trainer.evaluate()["eval_loss"])


def _first_and_last(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The ends of the curve, for people: did it learn?"""
    losses = [line["loss"] for line in lines if "loss" in line]
    held_out = [(line["eval_loss"], line["step"]) for line in lines if line.get("eval_loss") is not None]
    found = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
    if held_out:
        for end, (loss, step) in (("first", held_out[0]), ("best", min(held_out))):
            found |= {f"eval_loss_{end}": loss, f"eval_loss_{end}_step": step}
    return found


def evaluation_has_rows(job: Job, held_out: Any) -> None:
    asked = job.block("train").get("eval_strategy", "no") != "no" or job.block("train").get("eval_on_start")
    if asked and held_out is None:
        fix = "Write `rows: {eval_fraction: 0.05}` or `eval_data:`."
        raise fail(job.where, "evaluation is asked for, and no row is held out", fix)


def last_values(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    """Where each value ended (its name in the log → ours): of held-out rows if there are any, else of training."""
    found = {}
    for logged, ours in names.items():
        for key in (f"eval_{logged}", logged):
            values = [line[key] for line in lines if key in line]
            if values:
                found[ours] = values[-1]
                break
    return found
