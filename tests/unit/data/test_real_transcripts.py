"""Real transcripts with their real faults: the harmless test split of hh-rlhf, where it lies beside the repository."""

from pathlib import Path

import pytest

from ft.data.mixture import BadRows, mixed
from ft.data.read import Source

TRANSCRIPTS = Path(__file__).parents[4] / "shared" / "data" / "hh-rlhf-harmless-test.jsonl.gz"
pytestmark = pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the transcripts are not here")

EMPTY_ANSWERS = [87, 517, 926, 1104]
TWO_ANSWERS_IN_A_ROW = [668, 764, 1255, 1320, 1689, 1850, 1953, 2037]


def lines(source: Source, tmp_path: Path) -> tuple[int, list[int]]:
    """How many rows are good, and which lines are bad."""
    refused: list[int] = []

    class Noted(BadRows):
        def add(self, where: str, row: object, bad: ValueError) -> None:
            refused.append(int(where.rpartition(":")[2]))

    bad = BadRows("reject", tmp_path / "rejects.jsonl")
    good = sum(1 for _ in mixed([source], seed=1, bad=bad))
    bad.finish()
    return good, refused
