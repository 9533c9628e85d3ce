"""What models write when asked for questions, and for answers: good and bad replies, and the key behind a shuffle."""

from __future__ import annotations

from collections import Counter

import pytest

from ft.data.formats.messages import BadRow
from ft.evaluation.multiple_choice import (
    LETTERS,
    MultipleChoice,
    UnreadableReply,
    count_right,
    read_answers,
    read_questions,
    shuffle,
)

ONE = "Question 1: Who left?\nA) Ann\nB) Bob\nC) Cid\nD) Dan\nE) Eve\nAnswer: C"
TWO = "Question 2: Who stayed?\nA) Fay\nB) Gus\nC) Hal\nD) Ida\nE) Jon\nAnswer: E"
WHO_LEFT = MultipleChoice("Who left?", ("Ann", "Bob", "Cid", "Dan", "Eve"), "C")


def test_questions_are_read_with_their_choices_and_key():
    assert read_questions(f"{ONE}\n\n{TWO}\n", 2) == [
        WHO_LEFT,
        MultipleChoice("Who stayed?", ("Fay", "Gus", "Hal", "Ida", "Jon"), "E"),
    ]


@pytest.mark.parametrize(
    "reply",
    [f"Here are the questions:\n\n{ONE}", ONE.replace("\n", "\n\n  "), ONE.replace("Answer: C", "Answer: C)")],
    ids=["a greeting", "blank lines and indents", "a bracket behind the letter"],
)
def test_what_changes_no_meaning_is_passed_over(reply: str):
    assert read_questions(reply, 1) == [WHO_LEFT]


@pytest.mark.parametrize(
    ("reason", "reply"),
    [
        ("no_question", ""),
        ("no_question", "I cannot help with that."),
        ("no_question", "<html><body>502 Bad Gateway</body></html>"),
        ("no_question", '{"questions": []}'),
        ("wrong_count", ONE),
        ("wrong_count", f"{ONE}\n{TWO}\n{TWO.replace('2', '3').replace('stayed', 'came')}"),
        ("repeated_question", f"{ONE}\n{ONE.replace('Question 1', 'Question 2')}"),
        ("missing_choice", f"{ONE}\n{TWO.replace('C) Hal' + chr(10), '')}"),
        ("missing_choice", f"{ONE}\n{TWO.replace('C) Hal', 'C)')}"),
        ("missing_choice", f"{ONE}\n{TWO.replace('D) ', 'C) ')}"),
        ("missing_choice", f"{ONE}\n{TWO[:30]}"),
        ("no_answer", f"{ONE}\n{TWO.removesuffix('Answer: E')}"),
        ("no_answer", f"{ONE}\n{TWO.replace('Answer: E', 'Answer: F')}"),
        ("no_answer", f"{ONE}\n{TWO.replace('Answer: E', 'Answer: A and E')}"),
        ("repeated_choice", f"{ONE}\n{TWO.replace('Gus', 'FAY.')}"),
        ("not_a_question", f"{ONE}\nBecause the text says so.\n{TWO}"),
        ("not_a_question", f"{ONE}\n{TWO.replace('Question 2', 'Question 3')}"),
    ],
)
def test_a_reply_in_another_form_is_refused_with_its_reason(reason: str, reply: str):
    with pytest.raises(UnreadableReply) as refused:
        read_questions(reply, 2)
    assert refused.value.reason == reason


def test_the_key_follows_the_shuffle_and_letters_are_near_uniform():
    seen = Counter()
    for number in range(2_000):
        [question] = shuffle([WHO_LEFT], f"1 {number}")
        assert question.choices[LETTERS.index(question.answer)] == "Cid"
        assert sorted(question.choices) == sorted(WHO_LEFT.choices)
        seen[question.answer] += 1
    chi_squared = sum((seen[letter] - 400) ** 2 / 400 for letter in LETTERS)
    assert chi_squared < 18.5  # 4 degrees of freedom: one seed in a thousand is above


def test_a_shuffle_is_decided_by_its_seed():
    questions = [WHO_LEFT, MultipleChoice("Who stayed?", ("Fay", "Gus", "Hal", "Ida", "Jon"), "E")]
    assert shuffle(questions, "1 a") == shuffle(questions, "1 a")
    assert len({tuple(one.question for one in shuffle(questions, f"1 {n}")) for n in range(20)}) == 2


def test_a_record_gives_the_question_again():
    assert MultipleChoice.of_record(WHO_LEFT.record()) == WHO_LEFT


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {**WHO_LEFT.record(), "answer": "F"},
        {**WHO_LEFT.record(), "answer": "AB"},
        {**WHO_LEFT.record(), "answer": None},
        {**WHO_LEFT.record(), "choices": ["a"]},
        {**WHO_LEFT.record(), "choices": 5},
    ],
)
def test_a_record_without_choices_or_key_is_a_bad_row(record: object):
    with pytest.raises(BadRow):
        MultipleChoice.of_record(record)


@pytest.mark.parametrize("reply", ["1: C\n2: Unsure", "1:C\n\n 2: Unsure.", "1: C.\n2: Unsure\n"])
def test_answers_are_read_one_a_line(reply: str):
    assert read_answers(reply, 2) == ["C", "Unsure"]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "1: C",
        "1: C\n2: F",
        "2: C\n1: A",
        "1: C\n2: A\n3: A",
        "1: C\n2: Unsure, perhaps A",
        "C\nA",
        "1: C or D\n2: A",
    ],
)
def test_answers_in_another_form_are_refused(reply: str):
    with pytest.raises(UnreadableReply, match="not_the_answers"):
        read_answers(reply, 2)


def test_being_unsure_is_never_right():
    assert count_right(["C", "Unsure"], [WHO_LEFT, WHO_LEFT]) == 1
