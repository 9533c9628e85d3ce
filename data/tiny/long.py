"""Rows twice as long as the base model has read: documents of its world, one behind the other."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import make
from writing import Row, main

WORDS = 1100  # at most 2,048 tokens


def joined(chance: random.Random, count: int) -> Iterator[Row]:
    documents = make.documents(chance)
    for _ in range(count):
        words: list[str] = []
        while len(words) < WORDS:
            words += next(documents)["text"].split(" ")
        yield {"text": " ".join(words[:WORDS])}


FILES = {
    "long.jsonl.gz": lambda chance: joined(chance, 160),
    "long-held-out.jsonl.gz": lambda chance: joined(chance, 24),
}

if __name__ == "__main__":
    sys.exit(main(FILES, "long.py"))
