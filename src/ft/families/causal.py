"""Decoders that read from left to right: Llama, Mistral, Qwen, Gemma, GPT-2 and most models of today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ft.encode.conversation import OnTooLong, RenderedRow, Renderer
from ft.encode.encoder import ArrowColumn, Encoded, EncodedRow, Encoder, Row, id_columns, roles_column
from ft.encode.loss_mask import IGNORE_INDEX, TrainOn
from ft.encode.truncation import pieces
from ft.families.base import Collator, Family, Processor

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class CausalEncoder:
    """A row is one sequence, prompt and completion, and a label stands at the token it is of."""

    def __init__(self, renderer: Renderer):
        self.renderer = renderer
        self.counts, self.notes = renderer.counts, renderer.notes

    def arrow_columns(self) -> list[ArrowColumn]:
        return [*id_columns("input_ids", "labels"), roles_column()]

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        return [self._columns(row) if isinstance(row, RenderedRow) else row for row in self.renderer.render_batch(rows)]

    def _columns(self, row: RenderedRow) -> EncodedRow | list[EncodedRow]:
        columns = {"input_ids": row.input_ids, "labels": row.labels, "roles": row.roles}
        most = self.renderer.max_length
        if most is None or len(row.input_ids) <= most:
            return columns
        places = pieces(len(row.input_ids), most)  # only a document that is to be split is longer
        self.counts.pieces += len(places)
        return [{name: ids[place] for name, ids in columns.items()} for place in places]

    def bounded_length(self, row: EncodedRow) -> int:
        return len(row["input_ids"])


class CausalFamily(Family):
    name = "causal"
    about = "causal language models"
    auto = "AutoModelForCausalLM"
    mapping = "MODEL_FOR_CAUSAL_LM_MAPPING"
    auto_scorer = "AutoModelForSequenceClassification"
    task_type = "CAUSAL_LM"
    task_type_scorer = "SEQ_CLS"
    engine = "ft.models.generation.engine:Engine"
    trainer = "ft.training.causal:make_trainer"

    def row_encoder(
        self, processor: Processor, train_on: TrainOn, max_length: int | None = None, on_too_long: OnTooLong = "error"
    ) -> Encoder:
        tokenizer = cast("PreTrainedTokenizerBase", processor)  # what makes a decoder's rows is a tokenizer alone
        return CausalEncoder(Renderer(tokenizer, train_on=train_on, max_length=max_length, on_too_long=on_too_long))

    def completion_row(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> EncodedRow:
        labels = [*[IGNORE_INDEX] * len(prompt_ids), *completion_ids]
        return {"input_ids": [*prompt_ids, *completion_ids], "labels": labels}

    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Collator:
        """TRL's own, as SFTTrainer makes it where rows are not packed."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Collator = DataCollatorForLanguageModeling(pad_token_id, pad_to_multiple_of=pad_to_multiple_of)
        return collator

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the model reads of a batch."""
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def predictions(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The token at t + 1 is predicted at t, and a row's first token by nothing."""
        logits = model(**self.inputs(batch), use_cache=False).logits
        return logits[:, :-1], self.predicted_labels(batch)

    def predicted_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["labels"][:, 1:]

    def probe_states(self, model: Any, batch: Mapping[str, Tensor], prompt: int) -> tuple[Tensor, Tensor]:
        states = model.base_model(**self.inputs(batch), use_cache=False).last_hidden_state
        return states[:, :prompt], states[:, prompt - 1 : -1]


CAUSAL = CausalFamily()
