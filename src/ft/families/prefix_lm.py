"""Prefix language models: a decoder whose prompt sees itself both ways, while what it writes is causal.

`attention: prefix_lm` at a recipe's model makes one of any decoder that takes a mask of its own (arXiv:1910.10683,
section 3.2; U-PaLM, arXiv:2210.11399, goes on training a causal model so). The model's config remembers it, since its
weights say nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ft.encode.conversation import OnTooLong, RenderedRow, Renderer
from ft.encode.encoder import EncodedRow, Encoder
from ft.encode.loss_mask import IGNORE_INDEX, TrainOn
from ft.errors import fail
from ft.families.base import Collator, ModelConfig, Processor
from ft.families.causal import CausalFamily
from ft.families.prompt_rows import PromptRowEncoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class PrefixRows(PromptRowEncoder):
    """Prompt and answer in one sequence. A document has no prompt: it is read from left to right."""

    def prompt_row(self, row: RenderedRow, start: int, end: int, first: int = 0) -> EncodedRow:
        labels = [*[IGNORE_INDEX] * (start - first), *row.input_ids[start:end]]
        return {"input_ids": row.input_ids[first:end], "labels": labels, "roles": row.roles[first:end]}

    def document_start(self, ids: Sequence[int]) -> int:
        return 0

    def bounded_length(self, row: EncodedRow) -> int:
        return len(row["input_ids"])


class PrefixLMFamily(CausalFamily):
    name = "prefix_lm"
    about = "prefix language models"
    engine = "ft.models.generation.prefix_lm:PrefixEngine"
    reads_both_ways = True
    needs = (
        "This is a prefix language model (`attention_pattern` in its config): every token of a prompt must see all of "
        "the prompt. transformers lets it where it is given such a mask (a mask of shape (B, 1, L, L)) as the "
        "prompt is read; `model.generate` as above reads the prompt from left to right, and answers worse."
    )
    unsupported: ClassVar[Mapping[str, str]] = {
        "packing": "of several rows in one, only the first would see its prompt both ways",
        "use_liger_kernel": "its kernels were not tried with a mask of two dimensions a row",
    }

    def takes(self, config: ModelConfig) -> bool:
        return super().takes(config) and getattr(config, "attention_pattern", None) == self.name

    def takes_values(self, config: Mapping[str, Any]) -> bool:
        return config.get("attention_pattern") == self.name

    def row_encoder(
        self, processor: Processor, train_on: TrainOn, max_length: int | None = None, on_too_long: OnTooLong = "error"
    ) -> Encoder:
        tokenizer = cast("PreTrainedTokenizerBase", processor)
        return PrefixRows(Renderer(tokenizer, train_on=train_on, max_length=max_length, on_too_long=on_too_long))

    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Collator:
        collate = super().collator(pad_token_id, pad_to_multiple_of)

        def with_prefix(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            batch = collate(rows)
            return {**batch, "prefix_lengths": (batch["labels"] != IGNORE_INDEX).int().argmax(1)}

        return with_prefix

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().inputs(batch) | {"prefix_lengths": batch["prefix_lengths"]}

    def prepare(self, model: Any, where: str) -> None:
        """Let the model take `prefix_lengths` (B,), and read nothing without them: it would be another model."""
        config = model.config.get_text_config(decoder=True)
        if getattr(config, "sliding_window", None):
            what = "a prompt that sees itself both ways and a sliding window exclude each other"
            raise fail(where, what, "Name a model without `sliding_window`.")
        model.config.attention_pattern = self.name  # saved with the weights
        backbone = model.base_model
        causal = backbone.forward

        def forward(self: Any, input_ids: Tensor, attention_mask: Any = None, **inputs: Any) -> Any:
            prefix_lengths = inputs.pop("prefix_lengths", None)
            if prefix_lengths is not None:
                attention_mask = prefix_mask(config, input_ids, attention_mask, prefix_lengths, model.dtype)
            elif inputs.get("past_key_values") is None:
                raise ValueError(f"{where}: a prefix language model reads no row without prefix_lengths")
            return causal(input_ids=input_ids, attention_mask=attention_mask, **inputs)

        backbone.forward = MethodType(forward, backbone)


def prefix_mask(
    config: Any, input_ids: Tensor, attention_mask: Tensor, prefix_lengths: Tensor, dtype: torch.dtype
) -> Any:
    """transformers' mask, as the model's attention takes it, of rows (B, L) padded on either side: every token sees all
    before it, and a row's first `prefix_lengths` (B,) each other."""
    from transformers.masking_utils import create_causal_mask

    own = attention_mask.bool()
    in_prefix = own & (own.cumsum(1) <= prefix_lengths[:, None])
    shape = input_ids.new_zeros(*input_ids.shape, 1, dtype=dtype)  # of the embeddings only this is asked
    return create_causal_mask(config, shape, attention_mask, None, block_sequence_ids=in_prefix.long() - 1)


PREFIX_LM = PrefixLMFamily()
