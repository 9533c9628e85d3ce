"""Rows of sampled answers: written, and read again as answers of an earlier round."""

from __future__ import annotations

from typing import Any

import pytest

from ft.data.formats import format_row
from ft.data.formats.messages import BadRow
from ft.data.prompts import Prompt, Sample, best_row, earlier, is_earlier, pair_row, prompt_in
from ft.data.sources.files import SourceRow

QUESTION = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Sky?"}]
PROMPT = Prompt("key", "rows.jsonl:1", QUESTION, {"answer": "blue", "axis": "safety"})


def sample(k: int, text: str, score: float, round: int = 1) -> Sample:
    origin = {"policy": "p", "round": round, "k": k, "temperature": 0.7, "top_p": 1.0, "seed": 1}
    return Sample(PROMPT, text, origin, score, {"helpful": score})


SAMPLES = [sample(0, "red", 0.25), sample(1, "blue", 0.75), sample(2, "sky blue", 0.75)]


def read(row: dict[str, Any], format: str) -> SourceRow:
    return SourceRow("data/rows.jsonl:7", format_row(format, row, {}))


def test_the_best_answer_is_a_row_to_train_on():
    assert best_row(SAMPLES) == {
        "answer": "blue",
        "axis": "safety",
        "prompt": QUESTION,
        "completion": [{"role": "assistant", "content": "blue"}],
        "sampled": {
            **{"policy": "p", "round": 1, "k": 1, "temperature": 0.7, "top_p": 1.0, "seed": 1},
            **{"score": 0.75, "scores": {"helpful": 0.75}, "of": 3},
        },
    }


def test_best_and_worst_are_a_pair_with_their_margin():
    row = pair_row(SAMPLES)
    assert row is not None
    assert [row[side][0]["content"] for side in ("chosen", "rejected")] == ["blue", "red"]
    names = ("margin", "source_chosen", "source_rejected", "temperature_chosen", "temperature_rejected")
    assert [row[name] for name in names] == [0.5, "p", "p", 0.7, 0.7]


def test_answers_worth_the_same_are_no_pair():
    assert pair_row(SAMPLES[1:]) is None


def test_a_row_of_an_earlier_round_is_read_as_its_answer():
    source_row = read(best_row(SAMPLES), "prompt_completion")
    assert is_earlier(source_row.row)
    (found,) = earlier(source_row)
    assert (found.text, found.origin, found.prompt.columns) == ("blue", SAMPLES[1].origin, PROMPT.columns)
    assert found.conversation == [*QUESTION, {"role": "assistant", "content": "blue"}]


def test_a_pair_of_an_earlier_round_is_read_as_two_answers():
    found = earlier(read(pair_row(SAMPLES) or {}, "preference"))
    assert [(one.text, one.origin["k"]) for one in found] == [("blue", 1), ("red", 0)]
    assert found[0].prompt.columns == PROMPT.columns  # without the pair's own


def test_the_same_prompt_has_the_same_key_in_every_kind_of_row():
    turns = [*QUESTION, {"role": "assistant", "content": "blue"}]
    rows = [
        prompt_in(read({"prompt": QUESTION, "note": 1}, "prompt")),
        prompt_in(read({"messages": turns}, "messages")),
        prompt_in(read({"prompt": QUESTION, "chosen": "blue", "rejected": "red"}, "preference")),
        prompt_in(read({"prompt": QUESTION, "completion": "blue"}, "prompt_completion")),
        earlier(read(best_row(SAMPLES), "prompt_completion"))[0].prompt,
    ]
    assert len({found.key for found in rows}) == 1
    assert [found.messages for found in rows] == [QUESTION] * 5
    assert rows[0].columns == {"note": 1}


def test_answers_of_other_rounds_temperatures_and_policies_have_other_keys():
    one, other = sample(0, "red", 0.0), sample(0, "red", 0.0, round=2)
    hotter = Sample(PROMPT, "red", {**one.origin, "temperature": 1.0})
    theirs = Sample(PROMPT, "red", {**one.origin, "policy": "q"})
    assert len({found.key for found in (one, other, hotter, theirs)}) == 4


@pytest.mark.parametrize(
    ("row", "format", "what"),
    [
        ({"text": "a"}, "text", "a plain text asks nothing"),
        ({"prompt": "a?", "tools": [{"name": "t"}]}, "prompt", "the row has tools"),
        ({"prompt": "a?", "completion": "b", "sampled": {"k": 1}}, "prompt_completion", "column sampled does not tell"),
    ],
)
def test_a_row_that_cannot_be_sampled_for_is_refused(row, format, what):
    source_row = read(row, format)
    with pytest.raises(BadRow, match=what):
        earlier(source_row) if is_earlier(source_row.row) else prompt_in(source_row)


def test_turns_without_an_answer_are_no_prompt():
    source_row = read({"turns": ["Sky?", "And the sea?"]}, "user_turns")
    with pytest.raises(BadRow, match="the dialogue has no answer, so nothing stands before one"):
        prompt_in(source_row)


def test_what_a_row_says_to_its_template_is_part_of_what_is_asked_and_stays_with_its_answers():
    plain, quick = (
        {"prompt": QUESTION, **more} for more in ({}, {"chat_template_kwargs": '{"enable_thinking": false}'})
    )
    asked = [prompt_in(read(row, "prompt")) for row in (plain, quick)]
    assert [one.variables for one in asked] == [None, {"enable_thinking": False}]
    assert asked[0].key != asked[1].key
    answer = Sample(asked[1], "blue", SAMPLES[0].origin, 1.0, {})
    assert best_row([answer])["chat_template_kwargs"] == {"enable_thinking": False}
    with pytest.raises(BadRow, match="chat_template_kwargs"):
        prompt_in(read(quick, "prompt"), with_variables=False)
