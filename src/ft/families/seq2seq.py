"""Encoder-decoders: T5 and Flan-T5, BART. The encoder reads a prompt as a whole, the decoder writes what answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ft.data.formats.fields import BadRow
from ft.encode.conversation import OnTooLong, RenderedRow, Renderer
from ft.encode.encoder import EncodedRow, Encoder
from ft.encode.loss_mask import IGNORE_INDEX, TrainOn
from ft.families.base import Collator, Family, ModelConfig, Processor
from ft.families.prompt_rows import PromptRowEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class PromptEncoder(PromptRowEncoder):
    """The prompt is the encoder's, and the labels are what the decoder writes.

    A document is cut: its beginning is read and the rest written, which is the "LM adaptation" of T5
    (arXiv:2104.08691). Where it is cut follows from its tokens.
    """

    def prompt_row(self, row: RenderedRow, start: int, end: int, first: int = 0) -> EncodedRow | BadRow:
        if start == first:
            what = "what is trained begins the row, so an encoder has no prompt to read"
            return BadRow(what, "Set train_on: last, assistant or completion, and let a question come first.")
        ids = {"input_ids": row.input_ids[first:start], "labels": row.input_ids[start:end]}
        return {**ids, "roles": row.roles[first:end]}

    def document_start(self, ids: Sequence[int]) -> int:
        number = int.from_bytes(hashlib.sha256(repr(list(ids)).encode()).digest()[:8], "big")
        return 1 + number % max(1, len(ids) - 1)

    def bounded_length(self, row: EncodedRow) -> int:
        return len(row["input_ids"]) + len(row["labels"])


def _padded(rows: Sequence[Sequence[int]], value: int, multiple: int | None) -> Tensor:
    """(B, L), filled up on the right: encoders with learnt positions count them from the first column."""
    import torch

    width = max(1, *(len(row) for row in rows))
    width = -(-width // multiple) * multiple if multiple else width
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


class Seq2SeqFamily(Family):
    name = "seq2seq"
    about = "encoder-decoders"
    auto = "AutoModelForSeq2SeqLM"
    mapping = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"
    auto_scorer = "AutoModelForSequenceClassification"
    task_type = "SEQ_2_SEQ_LM"
    task_type_scorer = "SEQ_CLS"
    engine = "ft.models.generation.seq2seq:Seq2SeqEngine"
    trainer = "ft.training.seq2seq:make_trainer"
    reads_both_ways = True
    unquantised = frozenset({"wo"})  # T5's, which overflow; measured with transformers 5.23
    pipeline_tag = "text2text-generation"
    unsupported: ClassVar[Mapping[str, str]] = {
        "packing": "an encoder reads one prompt a row",
        "neftune_noise_alpha": "encoder and decoder have embeddings of their own, and the noise would reach neither",
        "activation_offloading": "it is TRL's, whose trainer knows no encoder",
        "use_liger_kernel": "it has no kernels for encoder-decoders",
    }

    def takes(self, config: ModelConfig) -> bool:
        import transformers

        return config.is_encoder_decoder and type(config) in getattr(transformers, self.mapping)

    def takes_values(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("is_encoder_decoder"))

    def special_ids(self, processor: Processor) -> dict[str, int | None]:
        """T5's decoder begins with a pad token."""
        return super().special_ids(processor) | {"decoder_start_token_id": processor.pad_token_id}

    def row_encoder(
        self, processor: Processor, train_on: TrainOn, max_length: int | None = None, on_too_long: OnTooLong = "error"
    ) -> Encoder:
        tokenizer = cast("PreTrainedTokenizerBase", processor)
        return PromptEncoder(Renderer(tokenizer, train_on=train_on, max_length=max_length, on_too_long=on_too_long))

    def completion_row(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> EncodedRow:
        return {"input_ids": list(prompt_ids), "labels": list(completion_ids)}

    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Collator:
        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            ids, labels = ([row[name] for row in rows] for name in ("input_ids", "labels"))
            return {
                "input_ids": _padded(ids, pad_token_id, pad_to_multiple_of),
                "attention_mask": _padded([[1] * len(row) for row in ids], 0, pad_to_multiple_of),
                "labels": _padded(labels, IGNORE_INDEX, pad_to_multiple_of),
            }

        return collate

    def predictions(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Every label is predicted: the model puts its own start token before them."""
        return model(**batch, use_cache=False).logits, self.predicted_labels(batch)

    def probe_states(self, model: Any, batch: Mapping[str, Tensor], prompt: int) -> tuple[Tensor, Tensor]:
        output = model(**batch, use_cache=False)
        return output.encoder_last_hidden_state, output.logits

    def predicted_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["labels"]


SEQ2SEQ = Seq2SeqFamily()
