"""What can be wrong with the shares of a data list, with the exact words that are printed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.recipe.conftest import GOOD

from ft.recipe import Recipe
from wording import Like


def shared(*sources: str) -> str:
    """The good recipe with these sources, the first on line 4."""
    listed = "".join(f"\n      - {source}" for source in sources)
    return GOOD.replace(" [rows.jsonl]", listed).replace("data:", "data:", 1)


WRONG = {
    "shares over 1": (
        ("{path: rows.jsonl, group: a, share: 0.7}", "{path: rows.jsonl, group: b, share: 0.5}"),
        Like("x.yaml:4: … shares … 1.2 … 0.7 … 0.5 … mixture … 1 …"),
    ),
    "shares under 1": (
        ("{path: rows.jsonl, group: a, share: 0.5}", "{path: rows.jsonl, group: a}"),
        Like("x.yaml:4: … shares … 0.5 … 0.5 … mixture … 1 …"),
    ),
    "a share without a group": (
        ("{path: rows.jsonl, group: a, share: 1}", "{path: rows.jsonl, share: 0.5}"),
        Like("x.yaml:6: … belongs … `group: NAME` …"),
    ),
    "a source without a group": (
        ("{path: rows.jsonl, group: a, share: 1}", "{path: rows.jsonl}"),
        Like("x.yaml:6: … 2 belongs … 1 … `group: NAME` …"),
    ),
    "a group without a share": (
        ("{path: rows.jsonl, group: a, share: 1}", "{path: rows.jsonl, group: b}"),
        Like("x.yaml:6: … 'b' … 1 … `share: …` …"),
    ),
    "two shares for one group": (
        ("{path: rows.jsonl, group: a, share: 1}", "{path: rows.jsonl, group: a, share: 0.5}"),
        Like("x.yaml:6: group 'a' … 0.5 … 1 …"),
    ),
    "a share that is a word": (
        ("{path: rows.jsonl, group: a, share: half}",),
        "x.yaml:5: data.share is 'half'. Write a number.",
    ),
}


@pytest.mark.parametrize(("sources", "text"), WRONG.values(), ids=WRONG)
def test_shares_that_do_not_fit_are_named(messages_of: Callable[..., str], sources: tuple[str, ...], text: str) -> None:
    assert text in messages_of(shared(*sources)).splitlines()


def test_thirds_add_up_to_a_whole(recipe: Callable[..., Recipe]) -> None:
    text = shared(*(f"{{path: rows.jsonl, group: {name}, share: 0.3333}}" for name in "abc"))

    assert [source["share"] for source in recipe(text).stages[0].data] == [0.3333] * 3
