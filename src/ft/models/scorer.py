"""A loaded reward model that scores conversations: what report cards, sampling and reinforcement share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.data.formats import BadRow
from ft.encode.conversation import Renderer
from ft.encode.pairs import through_answers
from ft.models.device import has_gpu
from ft.models.finite import refuse_broken_scores
from ft.models.load import load_scorer
from ft.models.processor import tokenizer_of
from ft.models.token_budget import positions_of

Message = dict[str, Any]


class Scorer:
    """Reward model, tokenizer and template on the device at hand: bfloat16 on a GPU, float32 on a CPU, the head always
    float32.

    renderer   makes the tokens; nothing reaches the model that could forge a turn
    positions  tokens the model can see; None: its config does not say
    """

    def __init__(self, folder: Path, quantization: Mapping[str, Any] | None = None):
        """The finished reward model in `folder`; its own quantisation unless another is given."""
        self.folder = folder
        use_cpu = not has_gpu()
        dtype = "float32" if use_cpu else "bfloat16"
        self.tokenizer = tokenizer_of(None, folder, None)
        self.renderer = Renderer(self.tokenizer, train_on="last")
        if quantization:
            quantization = {"bnb_4bit_compute_dtype": dtype, **quantization}
        self.model = load_scorer(folder, dtype, use_cpu, quantization)
        if not use_cpu and not getattr(self.model, "hf_device_map", None):
            self.model.to("cuda")
        self.positions = positions_of(self.model)

    def scores(self, conversations: Sequence[list[Message]], batch_size: int = 64) -> list[float]:
        """The score of each conversation's last answer, in their order. Raises BadRow for one that has no score."""
        rows = []
        for number, found in enumerate(self.rendered(conversations), 1):
            if isinstance(found, BadRow):
                raise BadRow(f"conversation {number}: {found.what}", found.fix)
            rows.append(found)
        return self.of_ids(rows, batch_size)

    def accepts(self, conversation: list[Message]) -> bool:
        """Whether `scores` takes it."""
        return not isinstance(self.rendered([conversation])[0], BadRow)

    def rendered(self, conversations: Sequence[list[Message]]) -> list[list[int] | BadRow]:
        """The token ids that are scored, or why a conversation cannot be."""
        return [self._fitting(found) for found in through_answers(self.renderer, conversations)]

    def _fitting(self, row: list[int] | BadRow) -> list[int] | BadRow:
        if isinstance(row, BadRow) or self.positions is None or len(row) <= self.positions:
            return row
        return BadRow(f"it is {len(row)} tokens long, and the reward model sees {self.positions}", "Shorten it.")

    def of_ids(self, rows: Sequence[list[int]], batch_size: int = 64) -> list[float]:
        """The score at the last token of each row; rows of about one length are computed side by side."""
        from ft.models.batching import batches_by_length

        scores = [0.0] * len(rows)
        for batch in batches_by_length([len(row) for row in rows], batch_size):
            for number, score in zip(batch, batch_scores(self.model, [rows[n] for n in batch]), strict=True):
                scores[number] = score
        refuse_broken_scores(scores, str(self.folder))
        return scores


def batch_scores(model: Any, rows: Sequence[list[int]]) -> list[float]:
    """The scores of rows computed as one batch, padded on the right, where a causal model does not look."""
    import torch

    from ft.models.batching import pad

    ids, mask = pad(rows, "right", next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
    values: list[float] = logits[:, 0].float().tolist()
    return values
