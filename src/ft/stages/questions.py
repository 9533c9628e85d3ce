"""Multiple-choice questions about each article, and the prompt that asks the policy for its summary.

Who writes them is in ft.evaluation.respondent, how a reply is read in ft.evaluation.multiple_choice; docs/summarize.md
tells of the chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.data.formats.messages import BadRow, make_message
from ft.data.mix import BadRows, conversation_key, mix_rows
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source
from ft.errors import fail
from ft.evaluation.multiple_choice import LETTERS, MultipleChoice, UnreadableReply, read_questions, shuffle
from ft.evaluation.prompt_file import QuestionsPrompt
from ft.evaluation.quiz import COLUMN, QUESTION_PROGRAMS, Unreadable, count_reasons
from ft.evaluation.respondent import Reply, RespondentOptions, respondent_of
from ft.evaluation.summaries import ARTICLE
from ft.files import write_lines
from ft.recipe import Stage
from ft.recipe.job import Job


@dataclass(frozen=True)
class QuestionsOptions(RespondentOptions):
    """Who writes the questions, how many, and how a summary is asked for: a recipe's `questions:` block.

    Beside the keys of RespondentOptions; the programs are those of ft.evaluation.quiz.QUESTION_PROGRAMS:

    count        questions about an article
    instruction  what the policy is told before the article
    on_bad_row   a row without an article: error, or reject (set aside, counted)
    """

    count: int = 5
    instruction: str = "Summarize the text below in at most two sentences, as short as you can."
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        self.check_respondent(QUESTION_PROGRAMS, "data/summaries/questions.yaml")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")
        if not self.instruction.strip():
            raise ValueError("instruction is empty; write what the policy is told before the article")


def check_prompt(stage: Stage) -> None:
    """UserError where the prompt lacks a part or does not compile."""
    if prompt := stage.blocks["questions"].get("prompt"):
        QuestionsPrompt.read(Path(prompt))


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl (prompt, article, questions with their key) and unreadable.jsonl; return what became of all."""
    options = QuestionsOptions(**job.block("questions"))
    respondent, record = respondent_of(job, options, QuestionsPrompt, QUESTION_PROGRAMS, "generator")
    articles, counts = _read(job, options)
    replies = respondent.replies([{"text": row["text"], "count": options.count, "row": row} for _, row in articles])
    results = [_questions(reply, options.count) for reply in replies]
    rows, unreadable, letters = [], [], Counter[str]()
    for (where, row), result in zip(articles, results, strict=True):
        if isinstance(result, Unreadable):
            unreadable.append({"where": where, **result.record()})
            continue
        shuffled = shuffle(result, f"{job.seed} {conversation_key(row)}")
        letters.update(question.answer for question in shuffled)
        rows.append(_row(row, shuffled, options.instruction))
    write_lines(job.folder / artifacts.UNREADABLE, unreadable)
    if not rows:
        what = f"none of the {len(articles)} articles got its questions: {count_reasons(results)['unreadable_because']}"
        raise fail(job.where, what, f"Look at {job.folder / artifacts.UNREADABLE}.")
    write_lines(job.folder / artifacts.ROWS, rows)
    shares = {letter: letters[letter] / letters.total() for letter in LETTERS}
    return counts | {"rows": len(rows), **count_reasons(results), "key_letters": shares, "generator": record}


def _read(job: Job, options: QuestionsOptions) -> tuple[list[SourceRow], dict[str, int]]:
    """The articles, each once, as rows with `text`."""
    bad = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS)
    articles: dict[str, SourceRow] = {}
    rows = 0
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        if "text" not in source_row.row:
            what = "the row is no article: it has no text"
            bad.add(
                *source_row, BadRow(what, "Write `format: text`, and `columns: {text: …}` where it is called else.")
            )
            continue
        rows += 1
        articles.setdefault(conversation_key(source_row.row), source_row)
    bad.finish()
    if not articles:
        raise fail(job.where, "data holds no article", "Name rows with a text.")
    return list(articles.values()), {"articles": rows, "repeated": rows - len(articles), "rejected": bad.count}


def _questions(reply: Reply, count: int) -> list[MultipleChoice] | Unreadable:
    if reply.reason:
        return Unreadable(reply.reason, reply.detail, reply.text)
    try:
        return read_questions(reply.text, count)
    except UnreadableReply as error:
        return Unreadable(error.reason, str(error), reply.text)


def _row(row: dict[str, Any], questions: Sequence[MultipleChoice], instruction: str) -> dict[str, Any]:
    columns = {name: value for name, value in row.items() if name != "text"}
    prompt = make_message("user", f"{instruction}\n\n{row['text']}")
    records = [question.record() for question in questions]
    return {**columns, "prompt": [prompt], ARTICLE: row["text"], COLUMN: records}
