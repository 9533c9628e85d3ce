"""A quiz on a text: whoever replies sees the text and the questions, and nothing else of the row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft.data.formats.messages import BadRow
from ft.evaluation.multiple_choice import LETTERS, UNSURE, MultipleChoice, UnreadableReply, count_right, read_answers
from ft.evaluation.respondent import Program, Respondent, Values
from ft.rewards import holds_words

COLUMN = "questions"
"""The column of a row with its questions, as MultipleChoice.record writes them."""
RESULT = "quiz"
"""The column of a row with its result, as QuizResult.record writes it."""


@dataclass(frozen=True)
class QuizResult:
    """The letters answered, and how many of the questions are right."""

    answers: Sequence[str]
    right: int

    @property
    def share(self) -> float:
        return self.right / len(self.answers)

    def record(self) -> dict[str, Any]:
        return {"answers": list(self.answers), "score": self.right, "of": len(self.answers)}


@dataclass(frozen=True)
class Unreadable:
    """Why there is no result: `reason` is counted, `detail` and `reply` are for people."""

    reason: str
    detail: str = ""
    reply: str = ""

    def record(self) -> dict[str, Any]:
        return {"reason": self.reason, "detail": self.detail, "reply": self.reply}


def questions_of(columns: Mapping[str, Any]) -> list[MultipleChoice]:
    """The questions of a row. Raises BadRow."""
    records = columns.get(COLUMN)
    if not isinstance(records, Sequence) or isinstance(records, str) or not records:
        raise BadRow(f"the row has no column '{COLUMN}' with a list of questions", "Read rows that bring them.")
    return [MultipleChoice.of_record(record) for record in records]


def answer_of(row: Mapping[str, Any]) -> str:
    """The text of a row's answer. Raises BadRow."""
    messages = row.get("completion") or row.get("messages")
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("the row has no answer to take the quiz from", "Read rows with a completion.")
    return str(messages[-1]["content"])


def take_quiz(
    respondent: Respondent, quizzes: Sequence[tuple[str, Sequence[MultipleChoice]]]
) -> list[QuizResult | Unreadable]:
    """The result of each (text, questions). Not even the key reaches who replies."""
    asked = [{"text": text, "questions": [one.without_answer() for one in questions]} for text, questions in quizzes]
    results: list[QuizResult | Unreadable] = []
    for reply, (_, questions) in zip(respondent.replies(asked), quizzes, strict=True):
        if reply.reason:
            results.append(Unreadable(reply.reason, reply.detail, reply.text))
            continue
        try:
            answers = read_answers(reply.text, len(questions))
        except UnreadableReply as error:
            results.append(Unreadable(error.reason, str(error), reply.text))
        else:
            results.append(QuizResult(answers, count_right(answers, questions)))
    return results


def count_reasons(results: Iterable[object]) -> dict[str, Any]:
    """How many have no result, and how many for which reason."""
    reasons = Counter(result.reason for result in results if isinstance(result, Unreadable))
    return {"unreadable": reasons.total(), "unreadable_because": dict(sorted(reasons.items()))}


def whole_words(values: Values) -> str:
    """Answers with the one choice that stands in the text as whole words; with none, or several, it is unsure."""
    lines = []
    for number, question in enumerate(values["questions"], 1):
        letters = [letter for letter, choice in question["choices"].items() if holds_words(values["text"], choice)]
        lines.append(f"{number}: {letters[0] if len(letters) == 1 else UNSURE}")
    return "\n".join(lines)


QUIZ_PROGRAMS: dict[str, Program] = {"whole_words": whole_words}
"""Programs that answer a quiz; to add one: a function and one line."""


def facts(values: Values) -> str:
    """Writes the questions of the row's column `facts`: {question, right, wrong: [four texts]}, as a model would."""
    blocks = []
    for number, fact in enumerate(values["row"].get("facts") or [], 1):
        choices = [fact["right"], *fact["wrong"]]
        lines = [f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        blocks.append("\n".join([f"Question {number}: {fact['question']}", *lines, f"Answer: {LETTERS[0]}"]))
    return "\n\n".join(blocks)


QUESTION_PROGRAMS: dict[str, Program] = {"facts": facts}
"""Programs that write questions; to add one: a function and one line."""
