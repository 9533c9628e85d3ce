"""How many questions each answer settles: a judge takes the row's quiz from the answer alone.

Works on any rows with an answer and a column `questions` (ft.evaluation.quiz). Rows that another judge has taken the
quiz on tell how far the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from ft import artifacts
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source
from ft.errors import fail
from ft.evaluation.multiple_choice import UNSURE, MultipleChoice
from ft.evaluation.prompt_file import QuizPrompt
from ft.evaluation.quiz import (
    QUIZ_PROGRAMS,
    RESULT,
    QuizResult,
    Unreadable,
    answer_of,
    count_reasons,
    questions_of,
    take_quiz,
)
from ft.evaluation.respondent import RespondentOptions, respondent_of
from ft.evaluation.statistics import of_shares
from ft.files import write_lines
from ft.recipe import Stage
from ft.recipe.job import Job


@dataclass(frozen=True)
class QuizOptions(RespondentOptions):
    """Who takes the quiz: a recipe's `quiz:` block.

    Beside the keys of RespondentOptions; the programs are those of ft.evaluation.quiz.QUIZ_PROGRAMS:

    on_bad_row  a row without an answer or questions: error, or reject (set aside, counted)
    """

    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        self.check_respondent(QUIZ_PROGRAMS, "data/summaries/quiz.yaml")


def check_prompt(stage: Stage) -> None:
    """UserError where the judge's prompt lacks a part or does not compile."""
    if prompt := stage.blocks[stage.kind_name].get("prompt"):
        QuizPrompt.read(Path(prompt))


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl (the rows with their results) and unreadable.jsonl; return the numbers."""
    options = QuizOptions(**job.block("quiz"))
    respondent, record = respondent_of(job, options, QuizPrompt, QUIZ_PROGRAMS, "judge")
    rows, quizzes, rejected = _read(job, options)
    results = take_quiz(respondent, quizzes)
    taken = [(row, result) for row, result in zip(rows, results, strict=True) if isinstance(result, QuizResult)]
    pairs = zip(rows, results, strict=True)
    unreadable = [{"where": row.where, **result.record()} for row, result in pairs if isinstance(result, Unreadable)]
    write_lines(job.folder / artifacts.UNREADABLE, unreadable)
    if not taken:
        what = f"none of the {len(rows)} rows has a result: {count_reasons(results)['unreadable_because']}"
        raise fail(job.where, what, f"Look at {job.folder / artifacts.UNREADABLE}.")
    write_lines(job.folder / artifacts.ROWS, ({**row.row, RESULT: result.record()} for row, result in taken))
    counts = {"rows": len(taken), "rejected": rejected, **count_reasons(results)}
    return (
        counts | _numbers([result for _, result in taken], job.seed) | _agreement(taken, job.seed) | {"judge": record}
    )


def _read(job: Job, options: QuizOptions) -> tuple[list[SourceRow], list[tuple[str, Sequence[MultipleChoice]]], int]:
    """The rows, the (answer, questions) of each, and how many rows are set aside."""
    bad = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS)
    rows, quizzes = [], list[tuple[str, Sequence[MultipleChoice]]]()
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        try:
            quizzes.append((answer_of(source_row.row), questions_of(source_row.row)))
            rows.append(source_row)
        except BadRow as bad_row:
            bad.add(*source_row, bad_row)
    bad.finish()
    if not rows:
        raise fail(job.where, "data holds no answer with questions", "Name rows of a stage that samples.")
    return rows, quizzes, bad.count


def _numbers(results: Sequence[QuizResult], seed: int) -> dict[str, float]:
    shares = [result.share for result in results]
    low, high = of_shares(shares, seed)
    unsure = sum(result.answers.count(UNSURE) for result in results)
    questions = sum(len(result.answers) for result in results)
    return {"right": fmean(shares), "right_low": low, "right_high": high, "unsure": unsure / questions}


def _agreement(taken: Sequence[tuple[SourceRow, QuizResult]], seed: int) -> dict[str, float]:
    """The share of questions that an earlier judge of the same rows answered alike, with its interval by row."""
    both = [(row.row[RESULT]["answers"], result.answers) for row, result in taken if RESULT in row.row]
    shares = [fmean(one == other for one, other in zip(*answers, strict=True)) for answers in both]
    if not shares:
        return {}
    low, high = of_shares(shares, seed)
    return {"agreement": fmean(shares), "agreement_low": low, "agreement_high": high}
