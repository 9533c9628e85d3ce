"""The trainer of encoder-decoders: transformers' own Trainer, with the loss and the metrics of every other stage.

TRL's trainers read one sequence; transformers' Seq2SeqTrainer adds answers during evaluation, which a stage of kind
`evaluate` gives. T5's own loss is a mean over a micro-batch, so accumulated steps would count tokens of short batches
more: here it is a sum over the tokens of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ft.encode.loss_mask import IGNORE_INDEX
from ft.families import Family
from ft.recipe.job import Job
from ft.training.measured_trainer import MeasuredTrainer


def make_trainer(job: Job, family: Family, model: Any, tokenizer: Any, config: Any, rows: Any, held_out: Any) -> Any:
    """A LabelTrainer on prepared rows, padded."""
    collator = family.collator(tokenizer.pad_token_id, config.pad_to_multiple_of)
    return LabelTrainer(
        family=family,
        model=model,
        args=config,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )


class LabelTrainer(MeasuredTrainer):
    """Trains on labels that a family's `predictions` aligns with logits."""

    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(self, *, family: Family, **given: Any):
        super().__init__(**given)
        self.family = family
        self.model_accepts_loss_kwargs = True  # so that the labels of a whole step are counted, for every model

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Nats a trained token: the mean over the step's, or over the batch's where that is not known."""
        logits, labels = self.family.predictions(model, inputs)
        is_trained = labels != IGNORE_INDEX
        count = is_trained.sum() if num_items_in_batch is None else num_items_in_batch
        loss = self._loss(logits, labels, count)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean over processes
        self._measure_tokens(logits.detach()[is_trained].float(), labels[is_trained], inputs["attention_mask"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def _loss(self, logits: Any, labels: Any, count: Any) -> Any:
        if self.label_smoother is not None:
            return self.label_smoother({"logits": logits}, labels, num_items_in_batch=count)
        flat = logits.float().flatten(0, 1), labels.flatten()
        return cross_entropy(*flat, ignore_index=IGNORE_INDEX, reduction="sum") / torch.as_tensor(count).clamp(min=1)

    def _measure_tokens(self, logits: Any, labels: Any, attention_mask: Any) -> None:
        """TRL's metrics, of the logits (N, V) of trained tokens (N,)."""
        logprobs = logits.log_softmax(-1)
        tokens = torch.tensor(len(labels), device=labels.device)
        self.measure({}, tokens=attention_mask.sum() + tokens)
        self.measure_share("entropy", -(logprobs.exp() * logprobs).sum(), tokens)
        self.measure_share("mean_token_accuracy", (logits.argmax(-1) == labels).sum(), tokens)
