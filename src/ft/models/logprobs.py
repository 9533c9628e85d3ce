"""How likely a model finds given answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def answer_logps(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], *, pad_id: int, batch_size: int = 64
) -> list[float]:
    """Log-probability of each answer behind its prompt, in nats, summed over the answer's tokens; 0.0 for an empty one.

    Rows of about one length are computed side by side; the numbers come back in the order of the prompts.
    """
    found = [0.0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]) + len(answers[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = _batch_logps(model, [prompts[p] for p in places], [answers[p] for p in places], pad_id)
        for place, value in zip(places, batch, strict=True):
            found[place] = value
    return found


def _batch_logps(model: Any, prompts: list[list[int]], answers: list[list[int]], pad_id: int) -> list[float]:
    """Padded on the right, which a causal model does not see from the left."""
    import torch

    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    longest, device = max(map(len, rows)), model.device
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=device)  # (B, T)
    lengths = torch.tensor([len(row) for row in rows], device=device)[:, None]
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
    steps = torch.arange(longest, device=device)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=(steps < lengths).long(), use_cache=False).logits
    counted = ((steps >= starts) & (steps < lengths))[:, 1:]  # (B, T - 1); the token at t + 1 is predicted at t
    logps = torch.zeros(counted.shape, device=device)
    logps[counted] = logits[:, :-1][counted].float().log_softmax(-1).gather(1, ids[:, 1:][counted][:, None])[:, 0]
    values: list[float] = logps.sum(1).tolist()
    return values
