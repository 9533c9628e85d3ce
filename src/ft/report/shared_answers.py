"""What several runs answered to the same prompts, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft import artifacts
from ft.figures.result_files import ResultFiles, text_of
from ft.report.answers import judged_answer, prompt_of, spread
from ft.report.parts import Answers, JudgedAnswer, PromptAnswers
from ft.report.run import ReportedStage, Run

MOST = 8


@dataclass(frozen=True)
class _Answer:
    """A row of an evaluation's answers; `result` is which evaluation's."""

    result: str
    row: Mapping[str, Any]
    side: JudgedAnswer


def shared_answers(runs: Mapping[str, Run]) -> Answers | None:
    """The newest answer of every run (by its letter) to prompts that all of them were asked, in evaluations and in
    dialogues; None where no two of them differ in what was asked and made."""
    by_run = {letter: _answers_of(run) for letter, run in runs.items()}
    first, *others = by_run.values()
    prompts = [prompt for prompt in first if all(prompt in answers for answers in others)]
    prompts = [p for p in prompts if len({answers[p].result for answers in by_run.values()}) > 1]
    rows = tuple(_beside(prompt, by_run) for prompt in spread(prompts, MOST))
    some = f"{len(rows)} of {len(prompts):,} prompts, evenly from the first to the last."
    return Answers(rows, some if len(rows) < len(prompts) else "") if rows else None


def _beside(prompt: str, by_run: Mapping[str, Mapping[str, _Answer]]) -> PromptAnswers:
    answers = {letter: answers[prompt] for letter, answers in by_run.items()}
    shown = next(iter(answers.values())).row
    return PromptAnswers(
        prompt_of(shown),
        tuple(JudgedAnswer(letter, one.side.text, one.side.verdict, one.side.good) for letter, one in answers.items()),
    )


def _answers_of(run: Run) -> dict[str, _Answer]:
    """Prompt → its newest answer: evaluations of later stages replace those of earlier ones."""
    answers: dict[str, _Answer] = {}
    for stage in run.stages:
        if stage.display.shows_answers and stage.result.done:
            for row in _rows(stage):
                prompt = json.dumps([(message.role, message.text) for message in prompt_of(row, pictures=False)])
                side = judged_answer("", row["completion"], row.get("score"))
                answers[prompt] = _Answer(stage.fingerprint, row, side)
    return answers


def _rows(stage: ReportedStage) -> list[Mapping[str, Any]]:
    """Rows with `prompt` and `completion`: an evaluation's, and a dialogue's turns, each after those before it."""
    files = ResultFiles(stage.result.folder, stage.blocks)
    rows: list[Mapping[str, Any]] = [row for row in files.lines(artifacts.ANSWERS) if "completion" in row]
    messages = files.json(artifacts.DIALOGUE) if files.has(artifacts.DIALOGUE) else None
    turns = [one for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    questions: list[Mapping[str, Any]] = []
    for message in turns:
        if message.get("role") == "assistant":
            # what was answered before differs from run to run: the same questions are the same prompt
            rows.append({"prompt": [*questions], "completion": text_of(message)})
        else:
            questions.append(message)
    return rows
