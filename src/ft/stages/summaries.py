"""Summaries of held-out articles by a model, the one before and others: accuracy by quiz, compression, win rates.

The numbers are those of ft.evaluation.summaries, the judge is that of `kind: quiz`; docs/summarize.md tells how to read
them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.columns import Column, print_table
from ft.console import Terminal
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, prompt_in
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.encode.prepare import RowOptions
from ft.errors import fail
from ft.evaluation.held_out_loss import held_out_rows
from ft.evaluation.prompt_file import QuizPrompt
from ft.evaluation.quiz import (
    QUIZ_PROGRAMS,
    QuizResult,
    Unreadable,
    count_reasons,
    questions_of,
    take_quiz,
)
from ft.evaluation.respondent import Respondent, RespondentOptions, respondent_of
from ft.evaluation.summaries import ARTICLE, Summary, quality, win_rates
from ft.files import digest, write_json, write_lines
from ft.models.generation.backends import WorkerSpec
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.replies import copy_earlier
from ft.models.generation.sampler import SampledAnswer, Sampler
from ft.models.identity import policy_identity
from ft.models.processor import tokenizer_of
from ft.preferences import PREFERENCES, PreferenceLimits
from ft.recipe.job import Job

MODEL, BASELINE, OTHER = "model", "baseline", "other"
PREFIX = {MODEL: "", BASELINE: "baseline_", OTHER: "other_"}
"""Of a side's numbers and columns."""


@dataclass(frozen=True)
class SummariesOptions(RespondentOptions):
    """Who takes the quiz, and how summaries are made and compared: a recipe's `summaries:` block.

    Beside the keys of RespondentOptions, as in `quiz:`:

    preference      one of ft.preferences: which of two summaries wins
    threshold       of the preference, in questions
    min_difference  of the preference, in words
    levels          shares of summaries that answer at least so many questions
    max_new_tokens  longest summary, in tokens
    temperature     of the summaries; 0 writes greedily
    """

    preference: str = "evaluation"
    threshold: float = PreferenceLimits.threshold
    min_difference: int = PreferenceLimits.min_difference
    levels: list[int] = field(default_factory=lambda: [3, 4])
    max_new_tokens: int = 256
    temperature: float = 0.0

    def __post_init__(self) -> None:
        self.check_respondent(QUIZ_PROGRAMS, "data/summaries/quiz.yaml")
        if self.preference not in PREFERENCES:
            raise ValueError(f"there is no preference '{self.preference}'; there are: {', '.join(PREFERENCES)}")
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise ValueError("max_new_tokens must be at least 1, temperature not below 0")


@dataclass(frozen=True)
class _Side:
    """A model's summaries, in the order of the articles, and what the judge answered from each."""

    answers: Sequence[SampledAnswer]
    results: Sequence[QuizResult | Unreadable]
    summaries: Sequence[Summary]


def make(job: Job) -> dict[str, Any]:
    """Write metrics.json and answers.jsonl; return the numbers, those of the other sides under their prefixes."""
    options = with_decoding(SummariesOptions(**job.block("summaries")), job)
    judge, record = respondent_of(job, options, QuizPrompt, QUIZ_PROGRAMS, "judge")
    prompts, rejected = _read(job)
    jobs = {MODEL: job, BASELINE: replace(job, init=job.inputs.get(BASELINE))}
    if OTHER in job.inputs:
        jobs[OTHER] = replace(job, init=job.inputs[OTHER])
    sides = {name: _side(side, options, prompts, judge) for name, side in jobs.items()}
    numbers: dict[str, Any] = {"articles": len(prompts), "rejected": rejected, "judge": record}
    limits = PreferenceLimits(options.threshold, options.min_difference)
    for name, side in sides.items():
        own = quality(side.summaries, options.levels, job.seed) | count_reasons(side.results)
        own["unfinished"] = sum(not answer.ended for answer in side.answers)
        if name != BASELINE:
            baseline = sides[BASELINE].summaries
            own |= win_rates(side.summaries, baseline, options.preference, limits, job.seed)
        numbers |= {f"{PREFIX[name]}{key}": value for key, value in own.items()}
    _write_answers(job.folder / artifacts.ANSWERS, prompts, sides)
    if numbers["win_rate"] is None:
        what = f"no summary could be judged: {numbers['unreadable_because']}"
        raise fail(job.where, what, f"Look at {job.folder / artifacts.ANSWERS}.")
    write_json(job.folder / artifacts.NUMBERS, numbers)
    show(numbers, options.levels, tuple(sides))
    return numbers


def _read(job: Job) -> tuple[list[Prompt], int]:
    """The prompts with article and questions that training holds out by the same `rows:`, each once."""
    rows_as = RowOptions(**job.block("rows"))
    bad = BadRows(rows_as.on_bad_row, job.folder / artifacts.REJECTS)
    rows = list(mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad))
    prompts: dict[str, Prompt] = {}
    for source_row in held_out_rows(rows, rows_as, job.seed):
        try:
            prompt = prompt_in(source_row)
            questions_of(prompt.columns)
            if not isinstance(prompt.columns.get(ARTICLE), str):
                raise BadRow(f"the row has no column '{ARTICLE}'", "Read the rows of a stage that writes questions.")
            prompts.setdefault(prompt.key, prompt)
        except BadRow as bad_row:
            bad.add(*source_row, bad_row)
    bad.finish()
    if not prompts:
        raise fail(job.where, "no article is held out", "Raise rows.eval_fraction, or name other rows.")
    return list(prompts.values()), bad.count


def _side(side: Job, options: SummariesOptions, prompts: Sequence[Prompt], judge: Respondent) -> _Side:
    answers = _draw(side, options, prompts)
    quizzes = [(one.sample.text, questions_of(one.sample.prompt.columns)) for one in answers]
    results = take_quiz(judge, quizzes)
    summaries = [
        Summary(text, answer.sample.prompt.columns[ARTICLE], getattr(result, "right", None), len(questions))
        for answer, (text, questions), result in zip(answers, quizzes, results, strict=True)
    ]
    return _Side(answers, results, summaries)


def _draw(side: Job, options: SummariesOptions, prompts: Sequence[Prompt]) -> Sequence[SampledAnswer]:
    """One model's summaries, in a file named by what decides them: another judge does not draw them again."""
    renderer = Renderer(tokenizer_of(side.model, side.init, side.template))
    ids = {prompt.key: renderer.prompt(prompt.messages, variables=prompt.variables) for prompt in prompts}
    sampling = decoding_of(side).sampling(options.max_new_tokens, options.temperature, seed=side.seed)
    policy = policy_identity(side)
    decided = [policy, side.template, side.blocks.get("quantization"), sampling.record(), options.batch_size]
    file = side.folder / f"summaries-{digest(decided)}.jsonl"
    copy_earlier(file)
    sampler = Sampler(
        side.name, WorkerSpec.of(side, options.batch_size), ids, {"policy": policy, "round": 0}, sampling, 1
    )
    answers = sampler.answers(prompts, options.temperature, file)
    if long := [one for one in answers if not one.fits]:
        what = f"its prompt leaves no room for a summary in what the model sees ({len(long)} such articles)"
        raise fail(long[0].sample.prompt.where, what, "Drop the article, or shorten it.")
    return answers


def _write_answers(path: Path, prompts: Sequence[Prompt], sides: Mapping[str, _Side]) -> None:
    lines = []
    for place, prompt in enumerate(prompts):
        line: dict[str, Any] = {**prompt.columns, "prompt": list(prompt.messages)}
        for name, side in sides.items():
            result, prefix = side.results[place], PREFIX[name]
            line |= {f"{prefix}completion": side.summaries[place].text, f"{prefix}quiz": result.record()}
            line |= {f"{prefix}score": side.summaries[place].right}
        lines.append(line)
    write_lines(path, lines)


def show(numbers: Mapping[str, Any], levels: Sequence[int], sides: Sequence[str]) -> None:
    """The table, a line a model, on stderr."""
    columns = [Column("summaries"), *(Column(f"≥ {level} right", right=True) for level in levels)]
    columns += [Column(name, right=True) for name in ("median", "mean", "INVALID", "TOO LONG", "WIN RATE")]
    print_table(Terminal(file=sys.stderr), columns, [_cells(numbers, levels, name) for name in sides])


def _cells(numbers: Mapping[str, Any], levels: Sequence[int], side: str) -> list[str]:
    prefix = PREFIX[side]
    shares = [*(f"at_least_{level}" for level in levels), "compression_median", "compression_mean"]
    cells = [_percent(numbers[f"{prefix}{name}"]) for name in (*shares, "invalid_characters", "too_long")]
    if side == BASELINE:
        return [side, *cells, ""]
    low, high = (numbers[f"{prefix}win_rate_{end}"] for end in ("low", "high"))
    return [side, *cells, f"{_percent(numbers[f'{prefix}win_rate'])} ({_percent(low)} to {_percent(high)})"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
