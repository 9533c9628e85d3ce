"""How likely a model finds given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ft.encode.encoder import EncodedRow
from ft.encode.loss_mask import IGNORE_INDEX
from ft.families import Family, family_of

if TYPE_CHECKING:
    from torch import Tensor


def completion_logprobs(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_size: int = 64
) -> list[float]:
    """Log-probability of each completion behind its prompt, in nats, summed over its tokens; 0.0 for an empty one.

    Rows of about one length are computed side by side; the numbers come back in the order of the prompts.
    """
    row_of = family_of(model.config, "model").completion_row
    rows = [row_of(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
    return row_logprobs(model, rows, batch_size=batch_size)


def row_logprobs(model: Any, rows: Sequence[EncodedRow], *, batch_size: int = 64) -> list[float]:
    """Log-probability of each row's labelled tokens (not IGNORE_INDEX), in nats, summed over the row.

    What no token predicts, a decoder's first one, is not counted, as in a model's own loss.
    """
    return [sum(values) for values in _token_logprobs(model, rows, batch_size, summed=True)]


def token_logprobs_of_rows(model: Any, rows: Sequence[EncodedRow], *, batch_size: int = 64) -> list[list[float]]:
    """The same token by token: of a decoder the nth value of a row is that of its token n + 1; 0.0 where none is
    labelled."""
    return _token_logprobs(model, rows, batch_size, summed=False)


def _token_logprobs(model: Any, rows: Sequence[EncodedRow], batch_size: int, summed: bool) -> list[list[float]]:
    from ft.models.batching import batches_by_length

    family = family_of(model.config, "model")
    logprobs: list[list[float]] = [[]] * len(rows)
    for batch in batches_by_length([len(row["input_ids"]) for row in rows], batch_size):
        values = _batch_logprobs(model, family, [rows[number] for number in batch])
        for number, value in zip(batch, (values.sum(1, keepdim=True) if summed else values).tolist(), strict=True):
            logprobs[number] = value
    return logprobs


def _batch_logprobs(model: Any, family: Family, rows: Sequence[EncodedRow]) -> Tensor:
    """Of each label, (B, P); 0 where there is none."""
    import torch

    batch = {name: values.to(model.device) for name, values in family.collator(pad_token_id=0)(rows).items()}
    with torch.no_grad():
        logits, labels = family.predictions(model, batch)
    counts = labels != IGNORE_INDEX
    logprobs = torch.zeros(counts.shape, device=model.device)
    logprobs[counts] = logits[counts].float().log_softmax(-1).gather(1, labels[counts][:, None])[:, 0]
    return logprobs
