"""BLIP-2's first stage: a Q-Former learns from captions to look at what a frozen image encoder sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ft.encode.pictures import PictureReader
from ft.errors import fail
from ft.models.load import share
from ft.recipe.job import Job
from ft.stages.scratch import TokenizerOptions, train_tokenizer
from ft.training.captioned import caption_collator, caption_rows, read_captions
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, last_values, train_and_save

LOSSES = {"contrast": "contrast", "matching": "matching", "generation": "generation", "found": "found"}
SHOWN = {"loss": "loss", "eval_loss": "eval loss", "found": "captions found in a batch", "matched": "pairs told apart"}


@dataclass(frozen=True)
class QFormerOptions:
    """What a Q-Former is beside its layers: a recipe's `qformer:` block.

    queries     that look at a picture, and later stand in front of the language model's text
    projection  size of the space in which pictures and captions are compared
    smoothing   of the contrastive targets
    """

    queries: int = 32
    projection: int = 256
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.queries < 1 or self.projection < 1:
            raise ValueError("queries and projection must be at least 1")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it is a share, from 0 to below 1")


def make(job: Job) -> dict[str, Any]:
    """Leave what `Blip2ForImageTextRetrieval` opens, and return the numbers for done.json."""
    from transformers import Blip2ForImageTextRetrieval

    from ft import artifacts
    from ft.files import read_lines
    from ft.models.qformer import contrast_floor

    trainer = trainer_of(job)
    numbers = train_and_save(trainer, job)
    if trainer.is_world_process_zero():
        numbers |= last_values(read_lines(job.folder / artifacts.METRICS), LOSSES)
        rows = trainer.args.per_device_eval_batch_size
        numbers["contrast_floor"] = contrast_floor(rows, trainer.model.smoothing)
        plain = Blip2ForImageTextRetrieval(trainer.model.config)
        weights = trainer.model.state_dict()
        plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
        plain.save_pretrained(str(job.folder))
        share(job.folder)
    return numbers


def trainer_of(job: Job) -> Any:
    from transformers import Blip2Config, Blip2QFormerConfig, set_seed
    from trl import SFTConfig

    from ft.models.qformer import QFormerForPretraining
    from ft.training.frozen import FrozenParts
    from ft.training.qformer import QFormerTrainer

    options = QFormerOptions(**job.block("qformer"))
    captions, held_out = read_captions(job, job.data), read_captions(job, job.eval_data)
    encoder, reader = load_image_encoder(job)
    tokenizer = train_tokenizer(_special(job), None, iter([text for _, _, text in captions]))
    ids_of = _encode(tokenizer)
    config = arguments(job, SFTConfig, remove_unused_columns=False)
    set_seed(job.seed)
    qformer = Blip2QFormerConfig(
        **{
            **job.block("architecture"),
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "encoder_hidden_size": encoder.config.hidden_size,
            "use_qformer_text_input": True,
        }
    )
    model = QFormerForPretraining(
        Blip2Config(
            vision_config=encoder.config,
            qformer_config=qformer,
            num_query_tokens=options.queries,
            image_text_hidden_size=options.projection,
            image_token_index=None,
        )
    )
    model.vision_model.load_state_dict(encoder.state_dict())
    model.decode_id = tokenizer.convert_tokens_to_ids(DECODE)
    model.smoothing = options.smoothing
    held_out_rows = caption_rows(held_out, ids_of)
    evaluation_has_rows(job, held_out_rows)
    rows = caption_rows(captions, ids_of)
    _refuse_long(job, [rows, held_out_rows], qformer.max_position_embeddings)
    reader.tokens = options.queries
    trainer: Any = QFormerTrainer(
        model=model,
        args=config,
        data_collator=caption_collator(reader, tokenizer.pad_token_id),
        train_dataset=rows,
        eval_dataset=held_out_rows,
        processing_class=with_reader(tokenizer, reader),
    )
    trainer.add_callback(FrozenParts(job.where))
    return add_callbacks(trainer, job, SHOWN)


CLASS, SEPARATOR, DECODE = "[CLS]", "[SEP]", "[DEC]"


def _special(job: Job) -> TokenizerOptions:
    """The tokenizer of captions, with BERT's special tokens and the paper's [DEC]."""
    return TokenizerOptions(
        **{**job.block("tokenizer"), "pad": "[PAD]", "bos": CLASS, "eos": SEPARATOR, "extra": [DECODE]}
    )


def _encode(tokenizer: Any) -> Any:
    def ids_of(text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]

    return ids_of


def _refuse_long(job: Job, sides: list[Any], most: int) -> None:
    for row in (row for side in sides if side is not None for row in side):
        if len(row["input_ids"]) > most:
            what = f"its caption has {len(row['input_ids'])} tokens, and the Q-Former {most} positions"
            raise fail(row["where"], what, "Shorten it, or raise architecture.max_position_embeddings.")


def with_reader(tokenizer: Any, reader: PictureReader) -> Any:
    from ft.encode.pictures import READER

    setattr(tokenizer, READER, reader)
    return tokenizer


def load_image_encoder(job: Job) -> tuple[Any, PictureReader]:
    """The image encoder that `inputs:` names, and what reads pictures for it."""
    from transformers import Blip2VisionModel, BlipImageProcessorPil

    folder: Path | None = job.inputs.get("image_encoder")
    if folder is None:
        raise fail(job.where, "there is no image encoder", "Write `inputs: {image_encoder: $stage}`.")
    encoder = Blip2VisionModel.from_pretrained(str(folder), use_safetensors=True)
    image_processor = BlipImageProcessorPil.from_pretrained(str(folder))
    return encoder, PictureReader(image_processor, 0, 0, cast("int", encoder.config.image_size))
