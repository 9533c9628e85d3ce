"""Groups of sources mixed by their shares: exact, seeded, and no row twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source, fingerprint
from ft.errors import UserError
from wording import Like


def source(folder: Path, name: str, count: int, **how: Any) -> Source:
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{name} {number}"}) + "\n" for number in range(count)), encoding="utf-8"
    )
    return Source(str(path), **how)


def taken(*sources: Source, seed: int = 1) -> list[str]:
    bad = BadRows("error")
    rows = [source_row.row["text"] for source_row in mix_rows(sources, seed=seed, bad=bad)]
    bad.finish()
    return rows


def counted(rows: list[str]) -> dict[str, int]:
    return dict(Counter(row.split()[0] for row in rows))


def helpfulness(folder: Path) -> list[Source]:
    """The paper's mixture: all own helpful rows, as many drawn from the own safety and the open rows."""
    return [
        source(folder, "helpful", 300, group="helpful", share=0.5),
        source(folder, "safety", 200, group="rest", share=0.5),
        source(folder, "open", 1000, group="rest"),
    ]


def test_the_papers_helpfulness_mixture_takes_all_own_rows_and_as_many_others(tmp_path: Path) -> None:
    found = counted(taken(*helpfulness(tmp_path)))

    assert found["helpful"] == 300
    assert found["safety"] + found["open"] == 300
    assert found["safety"] == pytest.approx(50, abs=20)  # one in six, as 200 of 1,200


def test_the_papers_safety_mixture_is_ninety_to_ten(tmp_path: Path) -> None:
    found = counted(
        taken(
            source(tmp_path, "safety", 400, group="safety", share=0.9),
            source(tmp_path, "harmless", 500, group="safety"),
            source(tmp_path, "helpful", 300, group="helpful", share=0.1),
            source(tmp_path, "open", 700, group="helpful"),
        )
    )

    assert (found["safety"], found["harmless"]) == (400, 500)
    assert found["helpful"] + found["open"] == 100


@pytest.mark.parametrize(("one", "other"), [(900, 50), (50, 900), (333, 1000)])
def test_ratios_are_within_one_in_a_hundred_and_no_row_comes_twice(tmp_path: Path, one: int, other: int) -> None:
    rows = taken(
        source(tmp_path, "a", one, group="a", share=0.7),
        source(tmp_path, "b", other, group="b", share=0.3),
    )

    assert counted(rows)["a"] / len(rows) == pytest.approx(0.7, abs=0.01)
    assert len(set(rows)) == len(rows)
    assert counted(rows)["a"] == one or counted(rows)["b"] == other


def test_a_cap_and_a_weight_decide_what_a_source_gives_to_its_group(tmp_path: Path) -> None:
    found = taken(
        source(tmp_path, "a", 100, group="a", share=0.5, rows=10, weight=2),
        source(tmp_path, "b", 100, group="b", share=0.5),
    )

    assert counted(found) == {"a": 20, "b": 20}
    assert set(Counter(row for row in found if row.startswith("a")).values()) == {2}


def test_the_choice_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    sources = helpfulness(tmp_path)

    assert taken(*sources) == taken(*sources)
    assert taken(*sources) != taken(*sources, seed=2)


def test_bad_rows_have_no_share_and_are_told_once(tmp_path: Path) -> None:
    sources = helpfulness(tmp_path)
    with Path(sources[0].path).open("a", encoding="utf-8") as file:
        file.write('{"text": ""}\n' * 30)
    bad = BadRows("reject", tmp_path / "rejects.jsonl")

    rows = [source_row.row["text"] for source_row in mix_rows(sources, seed=1, bad=bad)]

    assert counted(rows)["helpful"] == 300
    assert len(rows) == 600
    assert bad.count == 30


def test_a_group_too_small_for_another_to_have_a_row_is_refused(tmp_path: Path) -> None:
    sources = [
        source(tmp_path, "a", 4, group="a", share=0.95),
        source(tmp_path, "b", 100, group="b", share=0.05),
    ]
    with pytest.raises(UserError) as error:
        taken(*sources)

    assert str(error.value) == Like(f"{tmp_path}/a.jsonl: … 'a' … 4 … 'b' …")


def test_a_group_without_a_share_anywhere_is_only_a_name(tmp_path: Path) -> None:
    assert counted(taken(source(tmp_path, "a", 3, group="x"), source(tmp_path, "b", 2))) == {"a": 3, "b": 2}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"share": 0.5}, "a share belongs to a group. Write `group: NAME` too"),
        ({"share": 0.0, "group": "a"}, "share is 0.0; it is a part of the mixture, above 0 and at most 1"),
        ({"share": 90.0, "group": "a"}, "share is 90.0; it is a part of the mixture, above 0 and at most 1"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Source("x.jsonl", **how)


def test_shares_decide_the_fingerprint_and_their_absence_leaves_it_as_it_was(tmp_path: Path) -> None:
    plain = source(tmp_path, "a", 1)
    without = fingerprint(plain, None)

    assert set(without) == {"files", "format", "columns", "weight", "rows"}
    assert fingerprint(Source(plain.path, group="a", share=0.5), None) == {**without, "group": "a", "share": 0.5}
