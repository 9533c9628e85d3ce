"""Real transcripts with their real faults: the harmless test split of hh-rlhf, where HH_RLHF_HARMLESS_TEST names it."""

import json
from collections import Counter
from pathlib import Path

import pytest

import tiny
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source
from ft.tools.stats import count_rows

TRANSCRIPTS = tiny.TRANSCRIPTS
pytestmark = pytest.mark.skipif(not TRANSCRIPTS.exists(), reason="the transcripts are not here")

EMPTY_ANSWERS = [87, 517, 926, 1104]
TWO_ANSWERS_IN_A_ROW = [668, 764, 1255, 1320, 1689, 1850, 1953, 2037]


def lines(source: Source, rejects: Path) -> tuple[int, list[int]]:
    """How many rows are good, and which lines are bad."""
    bad = BadRows("reject", rejects)
    good = sum(1 for _ in mix_rows([source], seed=1, bad=bad))
    bad.finish()
    refused = [json.loads(line)["where"] for line in rejects.read_text("utf-8").splitlines()]
    return good, [int(where.rpartition(":")[2]) for where in refused]


def test_transcripts_read_as_dialogues_refuse_empty_answers_and_two_answers_in_a_row(tmp_path: Path) -> None:
    source = Source(str(TRANSCRIPTS), format="hh", columns={"text": "chosen"})

    assert lines(source, tmp_path / "rejects.jsonl") == (2300, sorted(EMPTY_ANSWERS + TWO_ANSWERS_IN_A_ROW))


def test_transcripts_read_as_pairs_refuse_the_same_and_one_of_the_rejected_side(tmp_path: Path) -> None:
    good, refused = lines(Source(str(TRANSCRIPTS)), tmp_path / "rejects.jsonl")

    assert good == 2299
    assert refused == sorted([*EMPTY_ANSWERS, *TWO_ANSWERS_IN_A_ROW, 1951])


def test_pairs_share_everything_but_the_last_answer(tmp_path: Path) -> None:
    rows = mix_rows([Source(str(TRANSCRIPTS))], seed=1, bad=BadRows("reject", tmp_path / "rejects.jsonl"))

    shapes = Counter((len(row["chosen"]), len(row["rejected"]), row["prompt"][-1]["role"]) for _, row in rows)

    assert shapes == {(1, 1, "user"): 2299}


def test_no_pair_is_a_tie_and_thirteen_are_broken() -> None:
    [found] = count_rows([Source(str(TRANSCRIPTS))], "harmless", None, lambda rows: None).sources

    assert (found.rows, found.ties, found.broken.total()) == (2299, 0, 13)
    assert found.broken == {
        "chosen: message … (assistant) follows assistant": 8,
        "chosen: message … (assistant) is empty": 4,
        "rejected: message … (assistant) follows assistant": 1,
    }
