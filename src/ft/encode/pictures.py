"""What a model with a picture encoder reads of a picture: a fixed number of tokens in its text, and pixels.

The tokenizer of such a model carries a PictureReader, so that whoever renders a conversation with it puts the tokens
where the picture belongs. A tokenizer without one reads text alone, and pictures are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ft.data.formats.fields import IMAGES, BadRow, Message
from ft.data.formats.pictures import open_picture

if TYPE_CHECKING:
    from torch import Tensor

READER = "picture_reader"
CACHED_BYTES = 64 * 2**20


class PictureReader:
    """Pictures as one model reads them.

    token_id  of the token that stands for a picture in a text
    tokens    how many of it stand for each picture: as many as the model's queries
    """

    def __init__(self, image_processor: Any, token_id: int, tokens: int, side: int):
        self.image_processor, self.token_id, self.tokens = image_processor, token_id, tokens
        self._pixels = lru_cache(max(1, CACHED_BYTES // (3 * side * side * 4)))(self._read)

    @property
    def ids(self) -> list[int]:
        return [self.token_id] * self.tokens

    def pixels(self, pictures: Sequence[str]) -> Tensor:
        """(N, 3, S, S): resized and normalised as the model's image processor says. Raises BadRow."""
        import torch

        return torch.stack([self._pixels(picture) for picture in pictures])

    def _read(self, picture: str) -> Tensor:
        pixels: Tensor = self.image_processor(open_picture(picture), return_tensors="pt")["pixel_values"][0]
        return pixels


def reader_of(tokenizer: object) -> PictureReader | None:
    """The tokenizer's; None where its model reads text alone."""
    reader: PictureReader | None = getattr(tokenizer, READER, None)
    return reader


def picture_in(messages: Sequence[Message]) -> str | None:
    """The one picture that a conversation is about; None where there is none. Raises BadRow where there are several: a
    model that reads a picture as a prefix of its text has been taught no place for a second one."""
    pictures = [picture for message in messages for picture in message.get(IMAGES) or ()]
    if len(pictures) > 1:
        what = f"the conversation has {len(pictures)} pictures, and the model reads one in front of its text"
        raise BadRow(what, "Write a row for each picture.")
    return pictures[0] if pictures else None


def asks_for_caption(messages: Sequence[Message]) -> bool:
    """Whether nothing is said beside the picture: what follows is its caption, with no turn around it."""
    return len(messages) == 1 and not messages[0]["content"] and bool(messages[0].get(IMAGES))
