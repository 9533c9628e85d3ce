"""A quiz on a text: who replies sees the text and the questions, and neither the article nor the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.formats.messages import BadRow
from ft.evaluation.multiple_choice import MultipleChoice, read_questions
from ft.evaluation.prompt_file import QuestionsPrompt, QuizPrompt
from ft.evaluation.quiz import (
    QUESTION_PROGRAMS,
    QuizResult,
    Unreadable,
    count_reasons,
    questions_of,
    take_quiz,
    whole_words,
)
from ft.evaluation.respondent import ByModel, ByProgram, Reply
from ft.models.generation.backends import BackendOptions, WorkerSpec
from ft.models.generation.replies import StoredReplies
from ft.models.generation.sampling import Sampling
from serving import serving

PROMPTS = tiny.ROOT / "data" / "summaries"
COLOURS = ("red", "blue", "green", "grey", "pink")
QUESTIONS = [
    MultipleChoice("What colour is the door?", COLOURS, "B"),
    MultipleChoice("What colour is the roof?", COLOURS[::-1], "E"),
]


def test_a_judge_that_is_a_server_is_shown_the_summary_alone(tmp_path: Path):
    """The row has an article, its prompt and a key: none of them is in what the server gets."""
    row: dict[str, Any] = {"article": "SECRET", "prompt": "SECRET", "questions": [one.record() for one in QUESTIONS]}
    with serving() as server:
        server.answer = lambda asked: "1: B\n2: Unsure"
        options = BackendOptions("server", server.url, "chat")
        stored = StoredReplies(WorkerSpec(options), ["judge"], Sampling(), tmp_path / "a" / "b" / "c", "quiz: replies")
        stored.file.parent.mkdir(parents=True)
        judge = ByModel(stored, QuizPrompt.read(PROMPTS / "quiz.yaml"))
        results = take_quiz(judge, [("The door is blue.", questions_of(row))])
    assert results == [QuizResult(["B", "Unsure"], 1)]
    [sent] = server.seen
    text = "\n".join(message["content"] for message in sent["messages"])
    assert "The door is blue." in text
    assert "Question 2: What colour is the roof?\nA) pink\n" in text
    assert "SECRET" not in text
    assert "Answer: " not in text


def test_the_program_takes_the_one_choice_that_stands_in_the_text():
    texts = ["The door is blue.", "Blue, red.", "bluest", ""]
    results = take_quiz(ByProgram(whole_words), [(text, QUESTIONS[:1]) for text in texts])
    assert results == [QuizResult(["B"], 1), *[QuizResult(["Unsure"], 0)] * 3]


class Scripted:
    def __init__(self, *replies: Reply):
        self.all = replies

    def replies(self, asked: Sequence[Mapping[str, Any]]) -> list[Reply]:
        assert all({*values} == {"text", "questions"} for values in asked)
        return list(self.all)


def test_what_cannot_be_read_is_counted_by_its_reason_and_guessed_by_nobody():
    replies = (Reply("1: B\n2: E"), Reply("B, E"), Reply("1: B", "cut"), Reply("", "failed", "HTTP 500"))
    results = take_quiz(Scripted(*replies), [("text", QUESTIONS)] * 4)
    assert results[0] == QuizResult(["B", "E"], 2)
    assert all(isinstance(result, Unreadable) for result in results[1:])
    because = {"cut": 1, "failed": 1, "not_the_answers": 1}
    assert count_reasons(results) == {"unreadable": 3, "unreadable_because": because}


@pytest.mark.parametrize("columns", [{}, {"questions": []}, {"questions": "?"}, {"questions": [{"question": "?"}]}])
def test_a_row_without_questions_is_a_bad_row(columns: dict[str, Any]):
    with pytest.raises(BadRow):
        questions_of(columns)


def test_the_program_writes_questions_in_the_form_that_is_read():
    fact = {"question": "What colour is the door?", "right": "blue", "wrong": ["red", "green", "grey", "pink"]}
    reply = QUESTION_PROGRAMS["facts"]({"text": "…", "count": 1, "row": {"facts": [fact]}})
    [question] = read_questions(reply, 1)
    assert (question.choices[0], question.answer) == ("blue", "A")


def test_the_shipped_prompt_for_questions_shows_the_article_and_how_many():
    system, user = QuestionsPrompt.read(PROMPTS / "questions.yaml").render({"text": "An article.", "count": 7})
    assert system["role"] == "system"
    assert "An article." in user["content"]
    assert "exactly 7 multiple-choice questions" in user["content"]
