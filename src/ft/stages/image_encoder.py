"""A small image encoder from nothing, which learns to see by the words of captions.

A linear layer on the mean of its patches says which words a picture's caption has (arXiv:1511.02251). It is thrown
away; the encoder is what a Q-Former looks at. With a real encoder (a ViT of CLIP or EVA) no such stage is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import Blip2Config, Blip2PreTrainedModel, Blip2VisionConfig, Blip2VisionModel

from ft.encode.pictures import PictureReader
from ft.models.load import share
from ft.recipe.job import Job
from ft.training.captioned import caption_collator, caption_rows, read_captions
from ft.training.loop import add_callbacks, arguments, evaluation_has_rows, train_and_save
from ft.training.measured_trainer import MeasuredTrainer

SHOWN = {"loss": "loss", "eval_loss": "eval loss", "words": "words right", "eval_words": "held-out words right"}


class WordsOfPictures(Blip2PreTrainedModel):
    """An image encoder, and which of `image_text_hidden_size` words it sees."""

    def __init__(self, config: Blip2Config):
        super().__init__(config)
        vision = cast(Blip2VisionConfig, config.vision_config)  # a dict only before the config is made
        self.vision_model = Blip2VisionModel(vision)
        self.words = nn.Linear(vision.hidden_size, config.image_text_hidden_size)
        self.post_init()
        # A quarter as wide as what patches are projected to: by the config's range alone their colours drown positions
        patch = self.vision_model.embeddings.patch_embedding.weight
        width = vision.initializer_range * patch[0].numel() ** 0.5
        nn.init.normal_(self.vision_model.embeddings.position_embedding, std=width / 4)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, N) logits of the words."""
        logits: Tensor = self.words(self.vision_model(pixel_values=pixel_values).last_hidden_state[:, 1:].mean(1))
        return logits


class WordsTrainer(MeasuredTrainer):
    """Nats of all words of a picture, each there or not."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.model_accepts_loss_kwargs = False  # each picture counts alike, in every micro-batch
        logits = model(inputs["pixel_values"])
        there = torch.zeros_like(logits).scatter(1, inputs["input_ids"], 1.0)  # a word that repeats is there once
        nats = binary_cross_entropy_with_logits(logits.float(), there, reduction="none").sum(1)
        right = ((logits.detach() > 0) == there.bool()).all(1).float()
        self.measure({"words": right}, tokens=inputs["attention_mask"].sum())
        return (nats.mean(), {"logits": logits}) if return_outputs else nats.mean()


def make(job: Job) -> dict[str, Any]:
    """Leave a Blip2VisionModel and its image processor, and return the numbers for done.json."""
    trainer = trainer_of(job)
    numbers = train_and_save(trainer, job)
    if trainer.is_world_process_zero():
        (job.folder / "model.safetensors").unlink()
        trainer.model.vision_model.save_pretrained(str(job.folder))
        share(job.folder)
    return numbers


def trainer_of(job: Job) -> Any:
    from transformers import BlipImageProcessorPil, set_seed
    from trl import SFTConfig

    captions, held_out = read_captions(job, job.data), read_captions(job, job.eval_data)
    words = _common_words([text for _, _, text in captions])
    config = arguments(job, SFTConfig, remove_unused_columns=False)
    set_seed(job.seed)
    vision = Blip2VisionConfig(**job.block("architecture"))
    model = WordsOfPictures(Blip2Config(vision_config=vision, image_text_hidden_size=len(words)))
    side = cast("int", vision.image_size)  # pictures here are square
    image_processor = BlipImageProcessorPil(size={"height": side, "width": side})
    reader = PictureReader(image_processor, 0, 0, side)

    def ids_of(text: str) -> list[int]:
        return sorted({words[word] for word in text.split() if word in words})

    held_out_rows = caption_rows(held_out, ids_of)
    evaluation_has_rows(job, held_out_rows)
    trainer: Any = WordsTrainer(
        model=model,
        args=config,
        data_collator=_Words(reader),
        train_dataset=caption_rows(captions, ids_of),
        eval_dataset=held_out_rows,
        processing_class=image_processor,
    )
    return add_callbacks(trainer, job, SHOWN)


class _Words:
    """Batches whose padding repeats a row's own first word, which changes nothing of which words are there."""

    def __init__(self, reader: PictureReader):
        self.collate = caption_collator(reader, 0)

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        batch = self.collate(rows)
        first = batch["input_ids"][:, :1]
        batch["input_ids"] = batch["input_ids"].where(batch["attention_mask"].bool(), first)
        return batch


def _common_words(texts: Sequence[str], fewest: int = 5) -> dict[str, int]:
    """Numbers of the words that at least so many captions have, and not all of them."""
    counts = Counter(word for text in texts for word in set(text.split()))
    common = sorted(word for word, count in counts.items() if fewest <= count < len(texts))
    return {word: number for number, word in enumerate(common)}
