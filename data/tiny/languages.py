"""languages.jsonl: what the world knows as sentences, with the language of each, to compare tokenizers by."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import world
from writing import Row, main


def sentences(chance: random.Random) -> Iterator[Row]:
    for fact in world.FACTS:
        for language in world.LANGUAGES:
            yield {"text": fact.statements[language], "language": language}


if __name__ == "__main__":
    sys.exit(main({"languages.jsonl": sentences}, "languages.py"))
