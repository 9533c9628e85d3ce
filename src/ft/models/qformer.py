"""A Q-Former and the three losses that teach it to look: BLIP-2's first stage (arXiv:2301.12597, section 3.2).

transformers has the layers and computes no loss for them. Self-attention is shared by queries and text, so each loss is
a mask: apart (contrast), all (matching), or text behind queries, each word seeing only those before it (generation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, normalize
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig

from ft.encode.loss_mask import IGNORE_INDEX

TEMPERATURE = 0.07  # where the paper's code begins; it is learnt from there
SMALLEST, LARGEST = 0.001, 0.5  # and kept between


@dataclass(frozen=True)
class QFormerLosses:
    """Nats of each part, and how often it is right.

    contrast, generation  (B,) a picture with its caption; of the caption the mean over its words
    matching, matched     (M,) of pairs and of hard negatives
    found                 (B,) whether a picture's own caption is the nearest of the batch
    """

    contrast: Tensor
    matching: Tensor
    generation: Tensor
    matched: Tensor
    found: Tensor

    @property
    def total(self) -> Tensor:
        return self.contrast.mean() + self.matching.mean() + self.generation.mean()


class QFormerForPretraining(Blip2ForImageTextRetrieval):
    """transformers' retrieval model with what its training needs beside it: a temperature, and a head that writes.

    The image encoder is frozen. Captions are ids that begin with [CLS] and end with [SEP], padded on the right.

    decode_id   of the token that stands for [CLS] where the text is written (the paper's [DEC])
    smoothing   of the contrastive targets; its floor is `contrast_floor`
    """

    def __init__(self, config: Blip2Config):
        super().__init__(config)
        qformer = cast(Blip2QFormerConfig, config.qformer_config)  # a dict only before the config is made
        width = qformer.hidden_size
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.writing_dense = nn.Linear(width, width)
        self.writing_norm = nn.LayerNorm(width, eps=qformer.layer_norm_eps)
        self.writing_bias = nn.Parameter(torch.zeros(qformer.vocab_size))
        self.decode_id, self.smoothing = 0, 0.1
        # transformers makes them as zeros, from which they part three times slower than the original's
        nn.init.normal_(self.query_tokens, std=qformer.initializer_range)
        self.vision_model.requires_grad_(False)

    def train(self, mode: bool = True) -> QFormerForPretraining:
        super().train(mode)
        self.vision_model.eval()
        return self

    # Passes

    def see(self, pixel_values: Tensor) -> Tensor:
        """(B, P, W): what the frozen encoder makes of pictures."""
        with torch.no_grad():
            seen: Tensor = self.vision_model(pixel_values=pixel_values).last_hidden_state
        return seen

    def picture_features(self, seen: Tensor) -> Tensor:
        """(B, Q, D), each of length 1: what every query makes of a picture by itself."""
        queries = self.query_tokens.expand(len(seen), -1, -1)
        return normalize(self.vision_projection(self._pass(queries, queries.shape[1], None, seen)), dim=-1)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, D), each of length 1: what [CLS] makes of a caption by itself."""
        states = self._pass(self.embeddings(input_ids=input_ids), 0, attention_mask, None)
        return normalize(self.text_projection(states[:, 0]), dim=-1)

    def matching_logits(self, seen: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, 2): no and yes, the mean over queries that see the caption too."""
        states = self._joint(seen, input_ids, self._all_see_all(attention_mask))
        logits: Tensor = self.itm_head(states[:, : self.query_tokens.shape[1]]).mean(1)
        return logits

    def word_logits(self, seen: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T, V): of the word behind each, by all queries and the words before it."""
        written = torch.cat([torch.full_like(input_ids[:, :1], self.decode_id), input_ids[:, 1:]], dim=1)
        states = self._joint(seen, written, self._text_behind_queries(attention_mask))
        states = self.writing_norm(gelu(self.writing_dense(states[:, self.query_tokens.shape[1] :])))
        return states @ self.embeddings.word_embeddings.weight.T + self.writing_bias  # tied, as BERT's

    def _joint(self, seen: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(B, Q + T, W): queries and text in one pass."""
        queries = self.query_tokens.expand(len(seen), -1, -1)
        embedded = self.embeddings(input_ids=input_ids, query_embeds=queries)
        return self._pass(embedded, queries.shape[1], mask, seen)

    def _pass(self, embedded: Tensor, queries: int, mask: Tensor | None, seen: Tensor | None) -> Tensor:
        """(B, Q + T, W) of the first `queries` and the text behind them; queries look at what was `seen`."""
        looks = {} if seen is None else {"encoder_hidden_states": seen}
        output: Any = self.qformer(query_embeds=embedded, query_length=queries, attention_mask=mask, **looks)
        states: Tensor = output.last_hidden_state
        return states

    # Masks (B, 1, Q + T, Q + T), added to attention

    def _all_see_all(self, attention_mask: Tensor) -> Tensor:
        size = self.query_tokens.shape[1]
        columns = torch.cat([attention_mask.new_ones(len(attention_mask), size), attention_mask], dim=1).bool()
        return self._added(columns[:, None].expand(-1, columns.shape[1], -1))

    def _text_behind_queries(self, attention_mask: Tensor) -> Tensor:
        size, length = self.query_tokens.shape[1], attention_mask.shape[1]
        sees = torch.zeros(size + length, size + length, dtype=torch.bool, device=attention_mask.device)
        sees[:, :size] = True
        sees[size:, size:] = torch.ones(length, length, dtype=torch.bool, device=sees.device).tril()
        real = torch.cat([attention_mask.new_ones(len(attention_mask), size), attention_mask], dim=1).bool()
        return self._added(sees & real[:, None])

    def _added(self, sees: Tensor) -> Tensor:
        dtype = self.query_tokens.dtype
        return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, torch.finfo(dtype).min)[
            :, None
        ]

    # Losses

    def losses(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> QFormerLosses:
        """Of B pictures and their captions. Pictures with the same caption are no negatives of each other."""
        seen = self.see(pixel_values)
        similarity = self.similarity(self.picture_features(seen), self.text_features(input_ids, attention_mask))
        same = (input_ids[:, None] == input_ids[None]).all(-1)
        logits = similarity / self.temperature.clamp(SMALLEST, LARGEST)
        contrast, found = contrast_loss(logits, same, self.smoothing)
        matching, matched = self._matching(seen, input_ids, attention_mask, logits.detach(), same)
        words = self.word_logits(seen, input_ids, attention_mask)[:, :-1]
        labels = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, IGNORE_INDEX)
        nats = cross_entropy(words.transpose(1, 2).float(), labels, reduction="none", ignore_index=IGNORE_INDEX)
        counts = (labels != IGNORE_INDEX).sum(1)
        weights = counts * len(counts) / counts.sum()  # so that the mean over rows is that over words
        return QFormerLosses(contrast, matching, nats.sum(1) / counts * weights, matched, found)

    @staticmethod
    def similarity(pictures: Tensor, texts: Tensor) -> Tensor:
        """(B, C) cosines of pictures (B, Q, D) and texts (C, D): that of the query nearest to the text."""
        return torch.einsum("bqd,cd->bqc", pictures, texts).amax(1)

    def _matching(
        self, seen: Tensor, input_ids: Tensor, attention_mask: Tensor, logits: Tensor, same: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pairs, then each caption with a picture and each picture with a caption that is not its own."""
        rows = (~same).any(1).nonzero()[:, 0]
        pictures, texts = (self._negatives(scores[rows], same[rows]) for scores in (logits.T, logits))
        own = torch.arange(len(seen), device=seen.device)
        picture_of, text_of = torch.cat([own, pictures, rows]), torch.cat([own, rows, texts])
        labels = (torch.arange(len(picture_of), device=seen.device) < len(own)).long()
        answers = self.matching_logits(seen[picture_of], input_ids[text_of], attention_mask[text_of])
        return cross_entropy(answers.float(), labels, reduction="none"), (answers.argmax(1) == labels).float()

    def _negatives(self, scores: Tensor, blocked: Tensor) -> Tensor:
        """For each row (N, B) another that looks right: drawn by likeness, in evaluation the likeliest."""
        likeness = scores.float().masked_fill(blocked, -torch.inf).softmax(1)
        if not len(scores) or not self.training:
            return likeness.argmax(1)
        return torch.multinomial(likeness, 1)[:, 0]


def contrast_loss(logits: Tensor, same: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Nats of each row (B,), the mean of both directions, by logits (B, B); whether each picture found its caption.

    Where `same` holds beside the diagonal, the other row is left out: it is neither right nor wrong.
    """
    targets = torch.arange(len(logits), device=logits.device)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    left = logits.float().masked_fill(others, -torch.inf)
    found = (left.argmax(1) == targets).float()
    return (_smoothed(left, smoothing) + _smoothed(left.T, smoothing)) / 2, found


def _smoothed(logits: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of the diagonal, smoothed over the entries that are not -inf, (B,); torch's own smoothing would
    spread over these too, and be infinite."""
    logprobs, allowed = logits.log_softmax(1), logits > -torch.inf
    spread = logprobs.where(allowed, 0).sum(1) / allowed.sum(1)
    return -(1 - smoothing) * logprobs.diagonal() - smoothing * spread


def contrast_floor(rows: int, smoothing: float) -> float:
    """The least contrastive loss that smoothing allows in batches of so many rows, in nats."""
    if rows < 2 or not smoothing:
        return 0.0
    right, wrong = 1 - smoothing + smoothing / rows, smoothing / rows
    return float(-(right * torch.tensor(right).log() + (rows - 1) * wrong * torch.tensor(wrong).log()))
