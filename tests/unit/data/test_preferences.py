"""Pairs of answers: their grades, and the public data sets as their own pages write them."""

from __future__ import annotations

from typing import Any

import pytest

from ft.data.formats import BadRow, detect, format_row
from ft.data.mix import Leakage, eval_side
from ft.data.sources.files import SourceRow
from wording import Like

Row = dict[str, Any]


def pair(prompt: str, chosen: str, rejected: str, **columns: Any) -> Row:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **columns,
    }


# Grades


def graded(**columns: Any) -> Row:
    found = format_row("preference", {"prompt": "2+2?", "chosen": "4", "rejected": "5", **columns}, {})
    return {name: value for name, value in found.items() if name not in ("prompt", "chosen", "rejected")}


@pytest.mark.parametrize(
    ("written", "rating"),
    [
        ("significantly", 1),
        ("Significantly better", 1),
        ("better", 2),
        ("slightly", 3),
        (" slightly better ", 3),
        ("negligibly", 4),
        ("negligibly better", 4),
        ("unsure", 4),
        ("negligibly/unsure", 4),
        ("negligibly better / unsure", 4),
        (1, 1),
        (4.0, 4),
        ("2", 2),
    ],
)
def test_a_rating_is_read_as_words_or_a_number(written: Any, rating: int) -> None:
    assert graded(rating=written) == {"rating": rating}
    assert type(graded(rating=written)["rating"]) is int


def test_safety_is_read_as_words_or_a_truth_value() -> None:
    assert graded(safety_chosen="safe", safety_rejected="Unsafe") == {"safety_chosen": True, "safety_rejected": False}
    assert graded(safety_chosen=True, safety_rejected="true") == {"safety_chosen": True, "safety_rejected": True}
    assert graded(safety_chosen=False, safety_rejected="false") == {"safety_chosen": False, "safety_rejected": False}


def test_where_an_answer_comes_from_is_kept_and_what_is_null_is_left_out() -> None:
    columns = {"axis": "safety", "source_chosen": "a", "source_rejected": "b", "temperature_chosen": 0.7}
    nothing = {"rating": None, "safety_chosen": None, "safety_rejected": None}
    assert graded(**columns, **nothing) == columns


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (
            {"rating": "much better"},
            Like("… 'much better' … 1 … 4 … {their_rating: rating} …"),
        ),
        ({"rating": 0}, "rating is 0 It is 1 to 4"),
        ({"rating": 2.5}, "rating is 2.5 It is 1 to 4"),
        ({"rating": True}, "rating is True It is 1 to 4"),
        ({"axis": "harmless"}, "axis is 'harmless' It is helpful or safety."),
        ({"safety_chosen": 1}, Like("safety_chosen … 1 … (unsafe) …")),
        (
            {"safety_chosen": "unsafe", "safety_rejected": True},
            Like("… rejected … answers …"),
        ),
    ],
)
def test_a_grade_that_makes_no_sense_is_refused(columns: Row, text: str) -> None:
    with pytest.raises(BadRow) as bad:
        graded(**columns)
    assert str(bad.value) == Like(f"{text} …")


def test_whole_transcripts_have_grades_too() -> None:
    row = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c", "rating": "better"}
    assert format_row("hh_pairs", row, {}) == pair("a", "b", "c", rating=2)


# Public data sets

ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Name a prime.",
    "models": ["alpaca-7b", "bard", "gpt-4"],
    "completions": [
        {"model": "alpaca-7b", "principle": "honesty", "response": "Four.", "overall_score": 1.0, "critique": "no"},
        {"model": "bard", "principle": "honesty", "response": "Seven.", "overall_score": 8.5, "critique": "yes"},
        {"model": "gpt-4", "principle": "honesty", "response": "7", "overall_score": 8.5, "critique": "yes"},
    ],
    "correct_answers": [],
    "incorrect_answers": [],
}
STACK_ANSWERS = {
    "qid": 43,
    "question": "<p>How do I exit?</p>",
    "date": "2016/12/19",
    "metadata": ["https://superuser.com"],
    "answers": [
        {"answer_id": 1, "author": "Ann", "pm_score": 1, "selected": False, "text": "<p>You do not.</p>"},
        {"answer_id": 2, "author": "Bob", "pm_score": 4, "selected": True, "text": "<p>:q</p>"},
    ],
}
SHP = {
    "post_id": "x1",
    "domain": "askbaking_train",
    "upvote_ratio": 0.98,
    "history": "Why is my bread flat?",
    "score_A": 5,
    "score_B": 20,
    "human_ref_A": "No idea.",
    "human_ref_B": "Old yeast.",
    "labels": 0,
    "seconds_difference": 60.0,
    "score_ratio": 4.0,
}
WEBGPT = {
    "question": {"dataset": "triviaqa", "id": "9", "full_text": "Who wrote Emma?"},
    "quotes_0": {"title": ["Emma"], "extract": ["by Austen"]},
    "answer_0": "Jane Austen [1].",
    "tokens_0": {"prefix": [1], "completion": [2]},
    "score_0": 0.5,
    "quotes_1": {"title": [], "extract": []},
    "answer_1": "Dickens.",
    "tokens_1": {"prefix": [1], "completion": [3]},
    "score_1": -0.5,
}
SUMMARIES = {
    "info": {"id": "t3_x", "post": "I lost my cat. It came back.", "title": "My cat", "subreddit": "pets"},
    "summaries": [
        {"text": " Cats.", "policy": "sup1", "note": ""},
        {"text": " Lost cat came back.", "policy": "ref", "note": ""},
    ],
    "choice": 1,
    "worker": "w1",
    "batch": "batch3",
    "split": "train",
    "extra": {"confidence": 7},
}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "2+2?"},
    ],
    "chosen": {"from": "gpt", "value": "4"},
    "rejected": {"from": "gpt", "value": "5"},
}
PUBLIC: list[tuple[str, Row, Row]] = [
    (
        "ultrafeedback",
        ULTRAFEEDBACK,
        pair(
            "Name a prime.",
            "Seven.",
            "Four.",
            source="evol_instruct",
            models=["alpaca-7b", "bard", "gpt-4"],
            correct_answers=[],
            incorrect_answers=[],
            source_chosen="bard",
            source_rejected="alpaca-7b",
            score_chosen=8.5,
            score_rejected=1.0,
        ),
    ),
    (
        "stack_exchange",
        STACK_ANSWERS,
        pair(
            "<p>How do I exit?</p>",
            "<p>:q</p>",
            "<p>You do not.</p>",
            qid=43,
            date="2016/12/19",
            metadata=["https://superuser.com"],
            score_chosen=4.0,
            score_rejected=1.0,
        ),
    ),
    (
        "stack_exchange",
        {"qid": 43, "question": "How do I exit?", "response_j": ":q", "response_k": "You do not."},
        pair("How do I exit?", ":q", "You do not.", qid=43),
    ),
    (
        "shp",
        SHP,
        pair(
            "Why is my bread flat?",
            "Old yeast.",
            "No idea.",
            post_id="x1",
            domain="askbaking_train",
            upvote_ratio=0.98,
            seconds_difference=60.0,
            score_ratio=4.0,
            score_chosen=20,
            score_rejected=5,
        ),
    ),
    ("webgpt", WEBGPT, pair("Who wrote Emma?", "Jane Austen [1].", "Dickens.", score_chosen=0.5, score_rejected=-0.5)),
    (
        "summaries",
        SUMMARIES,
        pair(
            "TITLE: My cat\n\nI lost my cat. It came back.\n\nTL;DR:",
            " Lost cat came back.",
            " Cats.",
            worker="w1",
            batch="batch3",
            split="train",
            extra={"confidence": 7},
            source_chosen="ref",
            source_rejected="sup1",
        ),
    ),
    (
        "sharegpt_pairs",
        SHAREGPT,
        pair("", "4", "5")
        | {
            "prompt": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "2+2?"},
            ]
        },
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), PUBLIC)
def test_a_public_row_becomes_a_pair(name: str, row: Row, expected: Row) -> None:
    assert format_row(name, row, {}) == expected


@pytest.mark.parametrize(("name", "row", "expected"), PUBLIC)
def test_a_public_row_is_told_by_its_columns(name: str, row: Row, expected: Row) -> None:
    assert detect(row) == name


def test_the_preferred_side_decides_which_answer_is_chosen() -> None:
    assert format_row("shp", SHP | {"labels": 1}, {})["chosen"][0]["content"] == "No idea."
    swapped = WEBGPT | {"score_0": -1.0, "score_1": 1.0}
    assert format_row("webgpt", swapped, {})["chosen"][0]["content"] == "Dickens."
    assert format_row("summaries", SUMMARIES | {"choice": 0}, {})["chosen"][0]["content"] == " Cats."


def test_an_article_is_summarised_like_a_post() -> None:
    row = SUMMARIES | {"info": {"post": None, "article": "A cat came back.", "title": None}}
    assert format_row("summaries", row, {})["prompt"][0]["content"] == "A cat came back.\n\nTL;DR:"


def test_any_lower_answer_may_be_rejected_and_always_the_same_one() -> None:
    found = set()
    scored = [("a", 9), ("b", 5), ("c", 4), ("d", 9)]
    for number in range(40):
        answers = [{"model": "m", "response": text, "overall_score": score} for text, score in scored]
        row = {"instruction": f"question {number}", "completions": answers}
        made = format_row("ultrafeedback", row, {})
        assert made == format_row("ultrafeedback", row, {})
        found.add((made["chosen"][0]["content"], made["rejected"][0]["content"]))
    assert found == {("a", "b"), ("a", "c")}


@pytest.mark.parametrize(
    ("name", "row", "text"),
    [
        (
            "webgpt",
            WEBGPT | {"score_0": 0.0, "score_1": 0.0},
            Like("… answer … another … 0 …"),
        ),
        (
            "stack_exchange",
            STACK_ANSWERS | {"answers": [{"text": "a", "pm_score": 2}, {"text": "b", "pm_score": 2}]},
            Like("… answer … another … 2 …"),
        ),
        (
            "ultrafeedback",
            ULTRAFEEDBACK | {"completions": ULTRAFEEDBACK["completions"][:1]},  # type: ignore[index]
            Like("completions … 1 … answers …"),
        ),
        (
            "ultrafeedback",
            {"instruction": "a", "completions": [{"response": "b", "overall_score": "N/A"}, {"response": "c"}]},
            "completions: overall_score of answer 1 is 'N/A', not a number",
        ),
        ("shp", SHP | {"labels": 2}, Like("labels … 2 … 1 … preferred … 0 …")),
        ("shp", SHP | {"human_ref_A": ""}, Like("rejected: message 1 (assistant) …")),
        ("summaries", SUMMARIES | {"choice": 2}, Like("choice … 2 … 0 … 1 … summary …")),
        (
            "sharegpt_pairs",
            SHAREGPT | {"rejected": {"from": "gpt", "value": "4 "}},
            Like("… rejected … answers …"),
        ),
        (
            "sharegpt_pairs",
            SHAREGPT | {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            Like("conversations … assistant …"),
        ),
    ],
)
def test_what_is_wrong_with_a_public_row_is_said(name: str, row: Row, text: str) -> None:
    with pytest.raises(BadRow) as bad:
        format_row(name, row, {})

    assert str(bad.value) == text


# Splits


def test_a_pair_leaks_by_its_prompt_whatever_its_answers() -> None:
    leakage = Leakage()
    leakage.add("train", SourceRow("a.jsonl:1", pair("2+2?", "4", "5")))
    leakage.add("eval", SourceRow("b.jsonl:1", pair("2+2? ", "four", "five")))
    leakage.add("eval", SourceRow("b.jsonl:2", pair("3+3?", "4", "5")))

    assert [problem.where for problem in leakage.problems()] == ["b.jsonl:1"]


def test_all_pairs_of_a_prompt_are_held_out_together() -> None:
    sides = {
        (number, eval_side(pair(f"question {number}", f"chosen {answer}", "no"), 0.3, 1))
        for number in range(200)
        for answer in range(3)
    }
    assert len(sides) == 200
    assert 40 < sum(side for _, side in sides) < 80
