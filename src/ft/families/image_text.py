"""BLIP-2 (arXiv:2301.12597): a picture is read by an image encoder, a Q-Former's queries look at it, and what they saw
stands in front of the language model's text as a soft prompt. The language model is a decoder or an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ft.data.formats.fields import BadRow
from ft.encode.conversation import OnTooLong, RenderedRow, Renderer
from ft.encode.encoder import ArrowColumn, Encoded, EncodedRow, Encoder, Row
from ft.encode.loss_mask import IGNORE_INDEX, TrainOn
from ft.encode.pictures import READER, PictureReader, reader_of
from ft.errors import fail
from ft.families.base import Collator, ModelConfig, Processor
from ft.families.causal import CausalEncoder, CausalFamily
from ft.families.seq2seq import PromptEncoder, Seq2SeqFamily

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

PICTURE = "picture"  # the column of prepared rows
Part = Literal["vision_model", "qformer", "language_projection", "language_model"]
PARTS: Mapping[Part, tuple[str, ...]] = {
    "vision_model": ("vision_model",),
    "qformer": ("query_tokens", "qformer"),
    "language_projection": ("language_projection",),
    "language_model": ("language_model",),
}
"""What a model is made of: each part by the beginnings of its parameters' names."""


@dataclass(frozen=True)
class PartOptions:
    """Which parts of a BLIP-2 are trained whole: a recipe's `parts:` block. The others stay as they are, bit for bit.

    trained  vision_model, qformer (its queries too), language_projection, language_model. Left out: what stage 2 of the
             paper trains (section 3.3), the Q-Former and the projection
    """

    trained: list[Part] = field(default_factory=lambda: ["qformer", "language_projection"])

    def __post_init__(self) -> None:
        if unknown := [name for name in self.trained if name not in PARTS]:
            raise ValueError(f"trained: there is no part '{unknown[0]}'; there are: {', '.join(PARTS)}")
        if not self.trained:
            raise ValueError("trained is empty; name a part, or write `lora:` to train adapters")


class _PicturedRows:
    """Adds the picture to each row of an encoder of text, whose tokens its renderer has counted already."""

    def arrow_columns(self) -> list[ArrowColumn]:
        import pyarrow as pa

        return [*super().arrow_columns(), (PICTURE, pa.large_string())]  # type: ignore[misc]

    def encode_batch(self, rows: Sequence[Row]) -> list[Encoded]:
        return [_checked(row) for row in super().encode_batch(rows)]  # type: ignore[misc]

    def _columns(self, row: RenderedRow) -> Any:
        columns = super()._columns(row)  # type: ignore[misc]
        parts = columns if isinstance(columns, list) else [columns]
        for part in parts:
            if isinstance(part, dict):
                part[PICTURE] = row.picture
        return columns


def _checked(row: Encoded) -> Encoded:
    """The row, unless its picture cannot be read, which would stop the training hours later."""
    from ft.data.formats.pictures import open_picture

    try:
        for picture in {part[PICTURE] for part in (row if isinstance(row, list) else [row]) if isinstance(part, dict)}:
            if not picture:
                raise BadRow("the row has no picture, and the model is asked about one", "Give it one, or drop it.")
            open_picture(picture)
    except BadRow as bad:
        return bad
    return row


class PicturedTextEncoder(_PicturedRows, CausalEncoder):
    """Rows of a BLIP-2 whose language model is a decoder."""


class PicturedPromptEncoder(_PicturedRows, PromptEncoder):
    """Rows of a BLIP-2 whose language model is an encoder-decoder; the picture is the encoder's."""


class ImageTextFamily(CausalFamily):
    name = "image_text"
    about = "BLIP-2 models"
    auto = "AutoModelForImageTextToText"
    mapping = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"
    auto_processor = "AutoProcessor"
    engine = "ft.models.generation.pictures:PictureEngine"
    trainer = "ft.training.pictures:make_trainer"
    unsupported: ClassVar[Mapping[str, str]] = {
        "packing": "each row has a picture of its own in front",
        "padding_free": "each row has a picture of its own in front",
        "neftune_noise_alpha": "the noise would reach the words and not the picture",
        "activation_offloading": "it is TRL's, whose trainer knows no BLIP-2",
        "use_liger_kernel": "it has no kernels for BLIP-2",
    }
    has_parts = True
    text_alone = False
    encoder_class: ClassVar[Any] = PicturedTextEncoder
    decoder_only: ClassVar[bool] = True

    def takes(self, config: ModelConfig) -> bool:
        return config.model_type == "blip-2" and getattr(config, "use_decoder_only_language_model", True) == (
            self.decoder_only
        )

    def takes_values(self, config: Mapping[str, Any]) -> bool:
        from_text = (config.get("text_config") or {}).get("model_type") in ("t5", "mt5")
        decoder_only = config.get("use_decoder_only_language_model", not from_text)
        return config.get("model_type") == "blip-2" and decoder_only == self.decoder_only

    def load_processor(self, path: str, revision: str | None) -> Processor:
        """The tokenizer, with what reads pictures beside it."""
        from transformers import AutoConfig

        processor: Any = super().load_processor(path, revision)
        tokenizer, image_processor = processor.tokenizer, processor.image_processor
        if processor.num_query_tokens is None:
            config: Any = AutoConfig.from_pretrained(path, revision=revision)
            processor.num_query_tokens = config.num_query_tokens
        token_id = tokenizer.convert_tokens_to_ids(str(processor.image_token))
        if token_id is None or token_id == tokenizer.unk_token_id:
            raise fail(
                path, f"its tokenizer has no {processor.image_token}", "Take tokenizer and model from one place."
            )
        size = image_processor.size
        side = getattr(size, "height", None) or size["height"]
        setattr(tokenizer, READER, PictureReader(image_processor, token_id, processor.num_query_tokens, side))
        return tokenizer

    def save_processor(self, processor: Any, folder: str) -> None:
        from transformers import Blip2Processor

        reader = reader_of(processor)
        if reader is None:  # of an image encoder alone
            processor.save_pretrained(folder)
            return
        Blip2Processor(reader.image_processor, processor, num_query_tokens=reader.tokens).save_pretrained(folder)

    def row_encoder(
        self, processor: Processor, train_on: TrainOn, max_length: int | None = None, on_too_long: OnTooLong = "error"
    ) -> Encoder:
        tokenizer: Any = processor
        renderer = Renderer(tokenizer, train_on=train_on, max_length=max_length, on_too_long=on_too_long)
        encoder: Encoder = self.encoder_class(renderer)
        return encoder

    def picture_collator(self, tokenizer: PreTrainedTokenizerBase, pad_to_multiple_of: int | None = None) -> Collator:
        """Batches of encoded rows with `pixel_values` (B, 3, S, S). Raises UserError where a row's picture tokens are
        not as many as the model's queries, or are trained: the model itself would take both without a word."""
        reader = reader_of(tokenizer)
        assert reader is not None
        collate_text = super().collator(int(tokenizer.pad_token_id or 0), pad_to_multiple_of)

        def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
            check_picture_tokens(rows, reader)
            batch = collate_text([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
            try:
                return {**batch, "pixel_values": reader.pixels([row[PICTURE] for row in rows])}
            except BadRow as bad:
                raise fail("rows", bad.what, bad.fix) from bad

        return collate

    def collator(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> Collator:
        what = "a loss is measured by the text alone here, and its rows have pictures"
        raise fail("loss", what, "Leave out `loss`, and measure answers.")

    def predictions(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        names = ("input_ids", "attention_mask", "pixel_values")
        logits = model(**{name: batch[name] for name in names}, use_cache=False).logits
        return logits[:, :-1], batch["labels"][:, 1:]


class ImageTextSeq2SeqFamily(ImageTextFamily, Seq2SeqFamily):
    encoder_class = PicturedPromptEncoder
    decoder_only = False
    engine = "ft.models.generation.pictures:PicturedPromptEngine"
    task_type = "SEQ_2_SEQ_LM"

    def completion_row(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> EncodedRow:
        return Seq2SeqFamily.completion_row(self, prompt_ids, completion_ids)

    def predictions(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(**batch, use_cache=False).logits, self.predicted_labels(batch)

    def predicted_labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        return Seq2SeqFamily.predicted_labels(self, batch)


def check_picture_tokens(rows: Sequence[Mapping[str, Any]], reader: PictureReader) -> None:
    """Raises UserError where a row has another number of picture tokens than the model has queries, or trains one."""
    for row in rows:
        places = [place for place, id in enumerate(row["input_ids"]) if id == reader.token_id]
        where = str(row.get("where", "rows"))
        if len(places) != reader.tokens:
            what = f"the row has {len(places)} picture tokens, and the model has {reader.tokens} queries"
            raise fail(where, what, "Prepare the rows for this model.")
        if len(row["labels"]) == len(row["input_ids"]) and any(row["labels"][n] != IGNORE_INDEX for n in places):
            raise fail(where, "a picture token is trained, which no model is to write", "Prepare the rows again.")


def is_of(name: str, parts: Sequence[Part]) -> bool:
    """Whether a parameter belongs to one of these parts."""
    return any(name.startswith(f"{start}.") or name == start for part in parts for start in PARTS[part])


IMAGE_TEXT, IMAGE_TEXT_SEQ2SEQ = ImageTextFamily(), ImageTextSeq2SeqFamily()
