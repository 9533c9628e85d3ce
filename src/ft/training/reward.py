"""What a reward model's trainer reads and adds: batches of prepared pairs, and a loss on safety labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.encode.pairs import SAFETY

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PairCollator:
    """P prepared pairs as TRL's collator makes a batch of them: all chosen rows, then all rejected ones, (2P, T),
    padded on the right; `margin` (P,) where the rows have one.

    `safe` (2P,), where the rows have labels: 1 safe, 0 unsafe, NaN where nobody said.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import torch
        from trl.trainer.reward_trainer import DataCollatorForPreference

        collate = DataCollatorForPreference(self.pad_token_id, self.pad_to_multiple_of)
        batch: dict[str, Any] = collate([_whole(row) for row in rows])
        if SAFETY[0] in rows[0]:
            labels = [row[name] for name in SAFETY for row in rows]
            batch["safe"] = torch.tensor([float("nan") if label is None else float(label) for label in labels])
        return batch


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its prompt before both answers."""
    sides = {f"{side}_ids": [*row["prompt_ids"], *row[f"{side}_ids"]] for side in ("chosen", "rejected")}
    return sides | {name: row[name] for name in ("margin",) if name in row}


def safety_loss(scores: Tensor, safe: Tensor) -> Tensor:
    """Binary cross-entropy of sigma(score) against the safe label, both (2P,), in nats: the mean over all answers of
    the batch, where one without a label (NaN) adds nothing.

    The paper adds an auxiliary safety loss and does not give its form (arXiv:2307.09288, 3.2.2); this one is ours.
    Every answer counts in the mean, so that the mean of two halves of a batch is that of the batch.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    labelled = ~safe.isnan()
    return binary_cross_entropy_with_logits(scores[labelled], safe[labelled], reduction="sum") / len(safe)
