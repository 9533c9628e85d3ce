"""Preferences without a reference: ORPO and SimPO, whose losses read the mean log-probability a token of both answers.

TRL 1.16 has trainers of both among its experimental ones. They render and cut rows themselves, make the logits of a
whole batch at once, which takes many times the memory of all else, and measure held-out rows by another way than
training. So TRL's losses are taken (`ft.training.trl_compat`), and the rows, the fused head, the shared prompt and the
held-out means are those of every other stage on pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from ft.encode.loss_mask import IGNORE_INDEX
from ft.encode.prepare import eval_rows, train_rows
from ft.models.hidden_states import inner_of
from ft.recipe.job import Job
from ft.training.callbacks import PREFERENCES
from ft.training.dpo.reference import pairs_without_reference
from ft.training.dpo.shared_prefix import share_logps, share_prompts
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, policy
from ft.training.measured_trainer import MeasuredTrainer

if TYPE_CHECKING:
    from torch import Tensor

PairLosses = Callable[[Any, "Tensor", "Tensor"], "Tensor"]
"""(arguments, mean log-probabilities of the chosen, of the rejected answers, (P,) each) → losses (P,), in nats."""


def trainer_without_reference(job: Job, config_class: type, losses: PairLosses, **given: Any) -> Any:
    """The trainer on the stage's prepared pairs; `given` goes to the class of its arguments."""
    assert job.rows is not None
    held_out, rows = pairs_without_reference(eval_rows(job.rows)), pairs_without_reference(train_rows(job.rows))
    evaluation_has_rows(job, held_out)
    config = arguments(job, config_class, **given)
    model, tokenizer = policy(job, config)
    trainer: Any = ReferenceFreeTrainer(model, config, rows, held_out, tokenizer, losses)
    share_prompts(trainer, share_logps)
    return add_callbacks(trainer, job, PREFERENCES)


class ReferenceFreeTrainer(MeasuredTrainer):
    """Trains on pairs that are ids already; `shares` lets a pair's prompt go through the model once.

    Each pair has a loss of its own, so neither the batch nor the processes that share a step change what is learnt.
    Logged are TRL's rewards (beta x mean log-probability a token), and summed log-probabilities as DPO has them.
    """

    loss_is_scaled_for_ga = False  # type: ignore[assignment]
    shares = False

    def __init__(self, model: Any, args: Any, rows: Any, held_out: Any, tokenizer: Any, losses: PairLosses):
        super().__init__(
            model=model,
            args=args,
            data_collator=DataCollatorForPreference(tokenizer.pad_token_id),
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
        )
        self.losses, self.beta = losses, args.beta
        if args.disable_dropout:
            disable_dropout_in_model(model)
        add_fused_lm_head(inner_of(model), outputs=("log_probs", "is_top1"))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = ["prompt_ids", "chosen_ids", "rejected_ids"]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        mask = inputs["completion_mask"][:, 1:]  # (2P, L - 1), chosen rows first
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX),
            use_cache=False,
            fused_lm_head=True,
            **({"pairs": True} if self.shares else {}),
        )
        sums = outputs.log_probs.sum(1)
        chosen, rejected = (sums / mask.sum(1)).chunk(2)
        loss = self.losses(self.args, chosen, rejected).mean()
        self._measure_pairs(inputs["attention_mask"], mask, sums.detach(), outputs.is_top1)
        return (loss, outputs) if return_outputs else loss

    def _measure_pairs(self, attention_mask: Tensor, mask: Tensor, sums: Tensor, is_top1: Tensor) -> None:
        rewards = self.beta * (sums / mask.sum(1))
        (chosen, rejected), (chosen_sums, rejected_sums) = rewards.chunk(2), sums.chunk(2)
        answers, right = mask.chunk(2)[0], is_top1.chunk(2)[0]
        self.measure(
            {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/accuracies": (chosen > rejected).float(),
                "rewards/margins": chosen - rejected,
                "logps/chosen": chosen_sums,
                "logps/rejected": rejected_sums,
            },
            tokens=attention_mask.sum(),
        )
        self.measure_share("mean_token_accuracy", (right & answers.bool()).sum(), answers.sum())
