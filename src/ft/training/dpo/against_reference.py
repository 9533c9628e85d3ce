"""A trainer of preferences that compares the policy with a reference: what DPO and KTO share.

The reference is the policy as the stage begins: an adapter's is a frozen copy of it on the same base; a whole model's
is a second, frozen one, or its log-probabilities computed once (`precompute_ref_log_probs`). `inputs: {reference: …}`
names another one, such as the model before the first of several rounds: its log-probabilities are computed once.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from ft.errors import fail
from ft.models.adapters import adapters_kept
from ft.models.device import compute_dtype
from ft.models.load import start
from ft.recipe.job import Job
from ft.training.callbacks import PREFERENCES, ChosenFalls
from ft.training.dpo.overlapped import LookAhead, OverlappedReference
from ft.training.dpo.reference import (
    brings_reference,
    check_start,
    drop_reference_that_adds_nothing,
    with_named_reference,
    with_reference,
)
from ft.training.dpo.shared_prefix import share_logps, share_prompts
from ft.training.loop import add_callbacks, policy
from ft.training.padding_free import leave_padding_out
from ft.training.trl_compat import OverlappedPairTrainer, PairTrainer, UnpairedTrainer

log = logging.getLogger(__name__)

TrainerClass = type[PairTrainer] | type[UnpairedTrainer]


def trainer_against_reference(
    job: Job, trainer_class: TrainerClass, config: Any, rows: Any, held_out: Any, advice: str
) -> Any:
    """The trainer, its reference proven to be the policy it starts from. `advice`: what to change where chosen answers
    become much less likely."""
    named = job.inputs.get("reference")
    if named:
        rows = with_named_reference(job, rows, "train", config)
        held_out = with_named_reference(job, held_out, "eval", config) if held_out is not None else None
    trainer = _trainer(job, trainer_class, config, rows, held_out)
    rough = config.bf16 or config.fp16 or "quantization" in job.blocks or brings_reference(rows)
    check_start(trainer, job.folder, job.where, exact=not rough, is_policy=named is None)
    trainer = add_callbacks(trainer, job, PREFERENCES)
    trainer.add_callback(ChosenFalls(trainer.beta, advice))
    return trainer


def _trainer(job: Job, trainer_class: TrainerClass, config: Any, rows: Any, held_out: Any) -> Any:
    whole = "lora" not in job.blocks
    kept = config.precompute_ref_log_probs or brings_reference(rows)
    # With an adapter TRL would hash the whole base first; the stage's folder is named by it already.
    config.precompute_ref_log_probs = whole and kept
    # TRL takes the batch size of evaluation, by which the reference would be rounded, and so the trained weights.
    config.precompute_ref_batch_size = config.precompute_ref_batch_size or config.per_device_train_batch_size
    model, tokenizer = policy(job, config)
    reference = None
    overlaps = whole and not kept and _overlaps(job, trainer_class, config)
    if overlaps:
        trainer_class = OverlappedPairTrainer
        config.precompute_ref_log_probs = True  # so that TRL loads no reference of its own
    elif whole and not kept:
        reference = start(job.model, job.init, None, None, compute_dtype(config), config.use_cpu)
    with nullcontext() if whole else adapters_kept(model):
        trainer: Any = trainer_class(
            model=model,
            ref_model=reference,
            args=config,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
    if not whole:
        drop_reference_that_adds_nothing(trainer.model)
    others = [] if reference is None else [reference]
    if issubclass(trainer_class, PairTrainer):
        share_prompts(trainer, share_logps, others)
    else:
        for one in (trainer.model, *others):
            leave_padding_out(one)
    if overlaps:
        overlapped = OverlappedReference(job, config, shares=trainer.shares)
        trainer.compute_with(overlapped)
        trainer.data_collator = LookAhead(trainer.data_collator, overlapped)
    if kept and not whole:
        trainer.train_dataset = with_reference(trainer, rows, "train", config.precompute_ref_batch_size)
        if held_out is not None:
            trainer.eval_dataset = with_reference(trainer, held_out, "eval", config.precompute_ref_batch_size)
        trainer.precompute_ref_logps = True  # from now on the rows' own columns, without a forward
    return trainer


def _overlaps(job: Job, trainer_class: TrainerClass, config: Any) -> bool:
    """Whether actors compute the reference while the policy trains. Raises UserError where they cannot."""
    if not job.engine.overlap_reference:
        return False
    if trainer_class is not PairTrainer:
        log.warning("%s: the reference is computed beside the policy: overlapping is for pairs", job.name)
        return False
    where = f"{job.where} engine.overlap_reference"
    if job.processes > 1:
        raise fail(where, "is for training by one process", "Write `train: {precompute_ref_log_probs: true}`.")
    if config.dataloader_num_workers:
        raise fail(where, "needs batches collated by the trainer", "Leave train.dataloader_num_workers out.")
    return True
