"""Direct preference optimisation on prepared pairs, whole, by LoRA or by QLoRA (arXiv:2305.18290).

The reference is the policy as the stage begins: an adapter's is a frozen copy of it on the same base; a whole model's
is a second, frozen one, or its log-probabilities computed once (`precompute_ref_log_probs`). `inputs: {reference: …}`
names another one, such as the model before the first of several rounds: its log-probabilities are computed once.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from ft import artifacts
from ft.encode.prepare import eval_rows, train_rows
from ft.models.adapters import adapters_kept
from ft.models.device import compute_dtype
from ft.models.load import start
from ft.recipe.job import Job
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, last_values, policy, train_and_save

log = logging.getLogger(__name__)

ENDS = {  # log-probabilities in nats
    "rewards/accuracies": "accuracies",
    "rewards/margins": "margins",
    "logps/chosen": "logps_chosen",
    "logps/rejected": "logps_rejected",
}


def make(job: Job) -> dict[str, Any]:
    """Train, save a folder that `from_pretrained` opens, and return the numbers for done.json."""
    from ft.files import read_lines

    trainer = trainer_of(job)
    numbers = train_and_save(trainer, job)
    if trainer.is_world_process_zero():
        lines = read_lines(job.folder / artifacts.METRICS)
        numbers |= last_values(lines, ENDS)
    return numbers


def trainer_of(job: Job) -> Any:
    """The trainer, its reference proven to be the policy it starts from."""
    from trl import DPOConfig

    from ft.training.callbacks import PREFERENCES, ChosenFalls
    from ft.training.dpo.reference import brings_reference, check_start, pairs_of, with_named_reference

    assert job.rows is not None
    held_out, rows = pairs_of(eval_rows(job.rows)), pairs_of(train_rows(job.rows))
    evaluation_has_rows(job, held_out)
    config = arguments(job, DPOConfig, max_length=None)  # rows fit already; TRL would cut answers
    named = job.inputs.get("reference")
    if named:
        rows = with_named_reference(job, rows, "train", config)
        held_out = with_named_reference(job, held_out, "eval", config) if held_out is not None else None
    trainer = _trainer(job, config, rows, held_out)
    rough = config.bf16 or config.fp16 or "quantization" in job.blocks or brings_reference(rows)
    check_start(trainer, job.folder, job.where, exact=not rough, is_policy=named is None)
    trainer = add_callbacks(trainer, job, PREFERENCES)
    trainer.add_callback(ChosenFalls(trainer.beta))
    return trainer


def _trainer(job: Job, config: Any, rows: Any, held_out: Any) -> Any:
    from ft.training.dpo.reference import brings_reference, drop_reference_that_adds_nothing, with_reference
    from ft.training.trl_compat import PairTrainer

    whole = "lora" not in job.blocks
    kept = config.precompute_ref_log_probs or brings_reference(rows)
    # With an adapter TRL would hash the whole base first; the stage's folder is named by it already.
    config.precompute_ref_log_probs = whole and kept
    # TRL takes the batch size of evaluation, by which the reference would be rounded, and so the trained weights.
    config.precompute_ref_batch_size = config.precompute_ref_batch_size or config.per_device_train_batch_size
    model, tokenizer = policy(job, config)
    reference = None
    if whole and not kept:
        reference = start(job.model, job.init, None, None, compute_dtype(config), config.use_cpu)
    with nullcontext() if whole else adapters_kept(model):
        trainer = PairTrainer(
            model=model,
            ref_model=reference,
            args=config,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
    if not whole:
        drop_reference_that_adds_nothing(trainer.model)
    _share(trainer)
    if kept and not whole:
        trainer.train_dataset = with_reference(trainer, rows, "train", config.precompute_ref_batch_size)
        if held_out is not None:
            trainer.eval_dataset = with_reference(trainer, held_out, "eval", config.precompute_ref_batch_size)
        trainer.read_reference_from_rows()
    return trainer


def _share(trainer: Any) -> None:
    """Let a pair's prompt go through the model once, if that is proven to change nothing on this model."""
    from ft.training.dpo.shared_prefix import objection, share_logps

    share_logps(trainer.model)
    if trainer.ref_model is not None:
        share_logps(trainer.ref_model)
    against = objection(trainer.model)
    trainer.shares = against is None
    if against and trainer.is_world_process_zero():
        log.warning("prompts are not shared by their two answers: %s", against)
