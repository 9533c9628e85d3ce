"""Is a packed batch the same as its rows apart? Asked of the model at hand before it trains."""

from __future__ import annotations

from typing import Any

from ft.bounds import is_at_most
from ft.errors import fail
from ft.training.trl_compat import attention_of


def refuse_leaks(model: Any, collate: Any, where: str) -> None:
    """Change one packed row and see that the other's logits stay. Raises UserError when they move.

    Two rows of 16 tokens, flattened by the trainer's own collator; a backend that lets them see each other
    (an attention implementation that ignores position_ids) changes the second row's logits when the first changes.
    How far they move is held against how far they move when both are one row and see each other for certain: LLM.int8
    chooses its outlier columns by the whole batch, so 8-bit weights alone move logits by a hundredth.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    rows = torch.randint(0, vocabulary, (3, 16), generator=generator).tolist()
    packed = [_logits(model, collate, [first, rows[2]])[16:] for first in rows[:2]]
    joined = [_logits(model, collate, [first + rows[2]])[16:] for first in rows[:2]]
    moved = (packed[0] - packed[1]).abs().max().item()
    if not is_at_most(moved, 0.1 * (joined[0] - joined[1]).abs().max().item()):
        raise fail(
            where,
            f"packed rows see each other with attention '{attention_of(model)}' (logits move by {moved:.2g})",
            "Write `packing: false`, or `model: {path: …, attn_implementation: sdpa}`.",
        )


def _logits(model: Any, collate: Any, rows: list[list[int]]) -> Any:
    """Logits of the flattened rows, shape (sum of lengths, vocabulary), float32."""
    import torch

    ids = [token for row in rows for token in row]
    example = {"input_ids": ids, "labels": ids, "seq_lengths": [len(row) for row in rows]}
    batch = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in collate([example]).items()}
    batch.pop("labels")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[0].float()
    model.train(was_training)
    return logits
