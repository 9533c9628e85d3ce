"""Tokens as text, one after the other: what each token adds to the text, as the tokenizer's decoder says it.

A token alone is not text: byte-level tokens hold parts of a character, and Metaspace decoders drop the blank before a
text's first word. So each token is decoded behind the few before it, and waits until its character is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = 4  # tokens decoded before a new one; every decoder looks back one token at most
LONGEST = 8  # tokens a character may take: emoji sequences are several characters, one character is at most 4 bytes
HALF = "\ufffd"  # what a decoder writes for bytes that are no character yet


class TextPiece(NamedTuple):
    """The text that tokens add. Mostly one token; more where only together they spell a character."""

    text: str
    ids: tuple[int, ...]


class IncrementalDecoder:
    """Turns a stream of tokens into pieces whose texts, joined, are the decoded whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, keep_special: bool = True):
        self.tokenizer, self.skip = tokenizer, not keep_special
        self.context: list[int] = []
        self.pending: list[int] = []

    def add(self, token: int) -> TextPiece | None:
        """The piece that ends with this token; None while a character is incomplete."""
        self.pending.append(token)
        text = self._text()
        if text.endswith(HALF) and len(self.pending) < LONGEST:
            return None
        return self._take_piece(text)

    def flush(self) -> TextPiece | None:
        """What still waits at the end of a text: bytes that never became a character."""
        return self._take_piece(self._text()) if self.pending else None

    def _text(self) -> str:
        return self._decode([*self.context, *self.pending])[len(self._decode(self.context)) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=self.skip, clean_up_tokenization_spaces=False))

    def _take_piece(self, text: str) -> TextPiece:
        piece = TextPiece(text, tuple(self.pending))
        self.context, self.pending = [*self.context, *self.pending][-CONTEXT:], []
        return piece


def text_pieces(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> Iterator[TextPiece]:
    """The pieces of a whole row."""
    decoder = IncrementalDecoder(tokenizer)
    for token in ids:
        if piece := decoder.add(token):
            yield piece
    if last := decoder.flush():
        yield last
