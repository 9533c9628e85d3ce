"""Pictures with captions as a trainer gets them, for what is trained without a language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ft import artifacts
from ft.data.formats.fields import BadRow, Row
from ft.data.formats.pictures import open_picture
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.encode.pictures import PictureReader, picture_in
from ft.errors import fail
from ft.families.base import Collator
from ft.recipe.job import Job

if TYPE_CHECKING:
    from datasets import Dataset

Ids = Callable[[str], list[int]]


def caption_of(row: Row) -> tuple[str, str]:
    """Picture and caption of a formatted row; of several captions the first. Raises BadRow."""
    messages = row.get("messages") or [*row.get("prompt", ()), *row.get("completion", ())]
    picture = picture_in(messages)
    if not picture:
        raise BadRow("the row has no picture", "Give it one, or drop it.")
    if any(message["content"] for message in messages if message["role"] == "user"):
        raise BadRow("the row asks a question about its picture", "Read pictures with captions: `format: caption`.")
    texts = [message["content"] for message in messages if message["role"] == "assistant"] or row.get("answer")
    if not texts:
        raise BadRow("the row has no caption", "Read it with `format: caption`.")
    return picture, str(texts[0])


def check_caption(row: Row) -> None:
    """Raises BadRow where a formatted row is no picture with a caption."""
    caption_of(row)


def read_captions(job: Job, sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Where, picture and caption of every row; each picture can be read. Raises UserError with all that are wrong."""
    bad = BadRows("error", job.folder / artifacts.REJECTS)
    found = []
    for source_row in mix_rows([Source(**source) for source in sources], seed=job.seed, bad=bad):
        try:
            picture, text = caption_of(source_row.row)
            open_picture(picture)
            found.append((source_row.where, picture, text))
        except BadRow as refused:
            bad.add(*source_row, refused)
    bad.finish()
    if sources and len(found) < 2:
        raise fail(job.where, "fewer than two rows have a picture and a caption", "Look at the sources.")
    return found


def caption_rows(captions: Sequence[tuple[str, str, str]], ids_of: Ids) -> Dataset | None:
    """Prepared rows: `where`, `picture`, `input_ids`; None where there are none."""
    from datasets import Dataset

    if not captions:
        return None
    where, pictures, texts = zip(*captions, strict=True)
    return Dataset.from_dict({"where": where, "picture": pictures, "input_ids": [ids_of(text) for text in texts]})


def caption_collator(reader: PictureReader, pad_token_id: int) -> Collator:
    """Batches: `pixel_values` (B, 3, S, S), `input_ids` and `attention_mask` (B, T), padded on the right."""
    from ft.models.batching import pad  # imports torch, which a plan does without

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ids, own = pad([row["input_ids"] for row in rows], "right", value=pad_token_id)
        pixels = reader.pixels([row["picture"] for row in rows])
        return {"pixel_values": pixels, "input_ids": ids, "attention_mask": own.long()}

    return collate
