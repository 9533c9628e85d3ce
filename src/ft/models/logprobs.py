"""How likely a model finds given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ft.encode.loss_mask import IGNORE_INDEX


def completion_logprobs(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, batch_size: int = 64
) -> list[float]:
    """Log-probability of each completion behind its prompt, in nats, summed over its tokens; 0.0 for an empty one.

    Rows of about one length are computed side by side; the numbers come back in the order of the prompts.
    """
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    labels = [
        [*[IGNORE_INDEX] * len(prompt), *completion] for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return label_logprobs(model, rows, labels, batch_size=batch_size)


def label_logprobs(
    model: Any, rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, batch_size: int = 64
) -> list[float]:
    """Log-probability of each row's labelled tokens (not IGNORE_INDEX), in nats, summed over the row.

    A row's first token is predicted by nothing and never counted, as in a causal model's own loss.
    """
    from ft.models.batching import batches_by_length

    logprobs = [0.0] * len(rows)
    for batch in batches_by_length([len(row) for row in rows], batch_size):
        values = _batch_logprobs(model, [rows[number] for number in batch], [labels[number] for number in batch])
        for number, value in zip(batch, values, strict=True):
            logprobs[number] = value
    return logprobs


def _batch_logprobs(model: Any, rows: list[Sequence[int]], labels: list[Sequence[int]]) -> list[float]:
    import torch

    from ft.models.batching import pad

    ids, mask = pad(rows, "right", model.device)  # (B, T)
    targets, _ = pad(labels, "right", model.device, IGNORE_INDEX)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    counted = targets[:, 1:] != IGNORE_INDEX  # (B, T - 1); the token at t + 1 is predicted at t
    logprobs = torch.zeros(counted.shape, device=model.device)
    predicted = logits[:, :-1][counted].float().log_softmax(-1)
    logprobs[counted] = predicted.gather(1, ids[:, 1:][counted][:, None])[:, 0]
    values: list[float] = logprobs.sum(1).tolist()
    return values
