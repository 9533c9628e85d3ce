"""Multiple-choice questions and the answers to them, read strictly from what a model wrote: pure functions.

A reply in another form than asked for is refused as a whole, with a reason of REASONS that can be counted: half a quiz
would be an easier one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft.data.formats.messages import BadRow

LETTERS = "ABCDE"
UNSURE = "Unsure"

QUESTION = re.compile(r"Question (\d+): *(\S.*)")
CHOICE = re.compile(r"([A-E])\) *(\S.*)")
ANSWER = re.compile(r"Answer: *([A-E])\)?")
QUIZ_ANSWER = re.compile(r"(\d+): *([A-E]|Unsure)\.?")


@dataclass(frozen=True)
class MultipleChoice:
    """A question with five choices, and the letter of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: str

    def record(self) -> dict[str, Any]:
        return {"question": self.question, "choices": list(self.choices), "answer": self.answer}

    def without_answer(self) -> dict[str, Any]:
        """What is shown to who is to answer."""
        return {"question": self.question, "choices": dict(zip(LETTERS, self.choices, strict=True))}

    @staticmethod
    def of_record(record: Any) -> MultipleChoice:
        """Raises BadRow where the record is no question with choices and a key."""
        fix = "Write {question: …, choices: [five texts], answer: a letter from A to E}."
        if not isinstance(record, Mapping) or not isinstance(record.get("question"), str):
            raise BadRow("a question of the column 'questions' is none", fix)
        choices, answer = record.get("choices"), record.get("answer")
        texts = isinstance(choices, Sequence) and all(isinstance(choice, str) for choice in choices)
        if not texts or len(choices or ()) != len(LETTERS) or not isinstance(answer, str) or answer not in [*LETTERS]:
            raise BadRow(f"the question {record['question']!r} has not five choices and a key", fix)
        return MultipleChoice(record["question"], tuple(choices or ()), answer)


class UnreadableReply(Exception):
    """Why a reply cannot be read: `reason` is counted, `detail` says where."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def read_questions(reply: str, count: int) -> list[MultipleChoice]:
    """The questions a reply asks, in its order. Lines before the first question are passed over: models greet.

    Raises UnreadableReply.
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    first = next((place for place, line in enumerate(lines) if QUESTION.fullmatch(line)), None)
    if first is None:
        raise UnreadableReply("no_question")
    size = 2 + len(LETTERS)
    blocks = [lines[place : place + size] for place in range(first, len(lines), size)]
    questions = [_question(number, block) for number, block in enumerate(blocks, 1)]
    if len(questions) != count:
        raise UnreadableReply("wrong_count", f"{len(questions)} questions, not {count}")
    if len({question.question.casefold() for question in questions}) != count:
        raise UnreadableReply("repeated_question")
    return questions


def _question(number: int, lines: Sequence[str]) -> MultipleChoice:
    head = QUESTION.fullmatch(lines[0])
    if head is None or int(head[1]) != number:
        raise UnreadableReply("not_a_question", f"'{lines[0][:60]}' where question {number} begins")
    choices = [CHOICE.fullmatch(line) for line in lines[1 : 1 + len(LETTERS)]]
    letters = "".join(choice[1] for choice in choices if choice)
    if letters != LETTERS:
        raise UnreadableReply("missing_choice", f"question {number} has the choices {letters or 'none'}")
    answer = ANSWER.fullmatch(lines[-1]) if len(lines) == 2 + len(LETTERS) else None
    if answer is None:
        raise UnreadableReply("no_answer", f"question {number}")
    texts = tuple(choice[2].strip() for choice in choices if choice)
    if len({text.casefold().rstrip(".") for text in texts}) != len(LETTERS):
        raise UnreadableReply("repeated_choice", f"question {number}")
    return MultipleChoice(head[2].strip(), texts, answer[1])


def shuffle(questions: Sequence[MultipleChoice], seed: str) -> list[MultipleChoice]:
    """The questions in another order, each with its choices in another order and the key that goes with them.

    Models put the right choice first, or in the middle, more often than not.
    """
    rng = random.Random(seed)
    shuffled = []
    for question in rng.sample(list(questions), len(questions)):
        places = rng.sample(range(len(LETTERS)), len(LETTERS))
        choices = tuple(question.choices[place] for place in places)
        right = places.index(LETTERS.index(question.answer))
        shuffled.append(MultipleChoice(question.question, choices, LETTERS[right]))
    return shuffled


def read_answers(reply: str, count: int) -> list[str]:
    """The letter, or UNSURE, for each question. Raises UnreadableReply."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    answers = [QUIZ_ANSWER.fullmatch(line) for line in lines]
    numbers = [int(answer[1]) if answer else 0 for answer in answers]
    if numbers != list(range(1, count + 1)):
        raise UnreadableReply("not_the_answers", f"{len(lines)} lines for {count} questions: '{reply[:60]}'")
    return [answer[2] for answer in answers if answer]


def count_right(answers: Sequence[str], questions: Sequence[MultipleChoice]) -> int:
    """How many answers are the key's; being unsure is never right."""
    return sum(answer == question.answer for answer, question in zip(answers, questions, strict=True))
