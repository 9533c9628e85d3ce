"""How likely a model finds given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ft.encode.loss_mask import IGNORE_INDEX


def answer_logps(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], *, pad_id: int, batch_size: int = 64
) -> list[float]:
    """Log-probability of each answer behind its prompt, in nats, summed over the answer's tokens; 0.0 for an empty one.

    Rows of about one length are computed side by side; the numbers come back in the order of the prompts.
    """
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORE_INDEX] * len(prompt) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return label_logps(model, rows, labels, pad_id=pad_id, batch_size=batch_size)


def label_logps(
    model: Any, rows: Sequence[list[int]], labels: Sequence[list[int]], *, pad_id: int, batch_size: int = 64
) -> list[float]:
    """Log-probability of each row's labelled tokens (not IGNORE_INDEX), in nats, summed over the row.

    A row's first token is predicted by nothing and never counted, as in a causal model's own loss.
    """
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = _batch_logps(model, [rows[p] for p in places], [labels[p] for p in places], pad_id)
        for place, value in zip(places, batch, strict=True):
            found[place] = value
    return found


def _batch_logps(model: Any, rows: list[list[int]], labels: list[list[int]], pad_id: int) -> list[float]:
    """Padded on the right, which a causal model does not see from the left."""
    import torch

    longest, device = max(map(len, rows)), model.device
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device)  # (B, T)
    targets = torch.tensor([row + [IGNORE_INDEX] * (longest - len(row)) for row in labels], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    mask = (torch.arange(longest, device=device) < lengths).long()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    counted = targets[:, 1:] != IGNORE_INDEX  # (B, T - 1); the token at t + 1 is predicted at t
    logps = torch.zeros(counted.shape, device=device)
    logps[counted] = logits[:, :-1][counted].float().log_softmax(-1).gather(1, ids[:, 1:][counted][:, None])[:, 0]
    values: list[float] = logps.sum(1).tolist()
    return values
