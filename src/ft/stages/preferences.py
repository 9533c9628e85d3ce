"""Pairs of answers to one prompt, by one of ft.preferences: rows to train on with DPO and its kin."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from ft import artifacts
from ft.data.formats import value_at
from ft.data.formats.columns import Row
from ft.data.formats.fields import VARIABLES
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import SIDES, Prompt, prompt_in
from ft.data.sources.read import Source
from ft.errors import fail
from ft.evaluation.quiz import answer_of
from ft.evaluation.summaries import count_words, why_invalid
from ft.files import write_lines
from ft.preferences import PREFERENCES, PreferenceLimits, RatedAnswer
from ft.recipe.job import Job


@dataclass(frozen=True)
class PreferenceOptions:
    """Which of two answers is preferred, and how many pairs are made: a recipe's `preferences:` block.

    function        one of ft.preferences
    score           the column with the score, as quiz.score or sampled.score
    threshold       of the score: where both answers are good enough, the shorter one is preferred
    min_difference  words by which it must be shorter
    margin          of scores, for the function `margin`
    least_words     an answer of fewer is in no pair
    most_words      one of as many, or more, is in no pair
    pairs           at most so many of a prompt, drawn by seed
    on_bad_row      a row without an answer or a score: error, or reject (set aside, counted)
    """

    function: str = "code"
    score: str = "quiz.score"
    threshold: float = PreferenceLimits.threshold
    min_difference: int = PreferenceLimits.min_difference
    margin: float = PreferenceLimits.margin
    least_words: int = 5
    most_words: int = 200
    pairs: int = 3
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        if self.function not in PREFERENCES:
            raise ValueError(f"there is no preference '{self.function}'; there are: {', '.join(PREFERENCES)}")
        if self.pairs < 1 or self.least_words < 0 or self.most_words <= self.least_words:
            raise ValueError("pairs must be at least 1, and most_words above least_words")

    @property
    def limits(self) -> PreferenceLimits:
        return PreferenceLimits(self.threshold, self.min_difference, self.margin)


@dataclass(frozen=True)
class _Candidate:
    text: str
    scored: RatedAnswer


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl (prompt, chosen, rejected, with scores and lengths); return what became of all answers."""
    options = PreferenceOptions(**job.block("preferences"))
    prompts, candidates, counts = _read(job, options)
    rows, possible, alike = [], 0, 0
    for key, answers in candidates.items():
        pairs = [_order(pair, options) for pair in combinations(answers, 2)]
        decided = [pair for pair in pairs if pair]
        possible, alike = possible + len(pairs), alike + len(pairs) - len(decided)
        chance = random.Random(f"{job.seed} {key}")
        drawn = chance.sample(decided, min(options.pairs, len(decided)))
        rows += [_row(prompts[key], *pair) for pair in drawn]
    counts |= {"pairs": possible, "no_preference": alike, "not_drawn": possible - alike - len(rows), "rows": len(rows)}
    if not rows:
        raise fail(job.where, f"no answer is preferred to another: {counts}", "Sample more answers a prompt.")
    write_lines(job.folder / artifacts.ROWS, rows)
    return counts | {"prompts_with_pairs": len({_key_of(row) for row in rows}), **_lengths(rows)}


def _read(
    job: Job, options: PreferenceOptions
) -> tuple[dict[str, Prompt], dict[str, list[_Candidate]], dict[str, Any]]:
    """The prompts, the valid answers to each, each text once, and why the others are left out."""
    bad = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS)
    prompts, candidates, counts = dict[str, Prompt](), dict[str, list[_Candidate]](), Counter[str]()
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        try:
            prompt, text, score = prompt_in(source_row), answer_of(source_row.row), _score(source_row.row, options)
        except BadRow as bad_row:
            bad.add(*source_row, bad_row)
            continue
        answers = candidates.setdefault(prompts.setdefault(prompt.key, prompt).key, [])
        why: str = why_invalid(text, options.least_words, options.most_words)
        if not why and text in [answer.text for answer in answers]:
            why = "repeated"
        counts[why or "valid"] += 1
        if not why:
            answers.append(_Candidate(text, RatedAnswer(score, count_words(text))))
    bad.finish()
    names = ("valid", "repeated", "too_few_words", "too_many_words", "characters")
    numbers = {"answers": counts.total(), **{name: counts[name] for name in names}}
    return prompts, candidates, {**numbers, "rejected": bad.count, "prompts": len(prompts)}


def _score(row: Row, options: PreferenceOptions) -> float:
    score = value_at(row, options.score)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise BadRow(f"{options.score} is {score!r}, which is no score", "Name the column with `preferences.score`.")
    return float(score)


def _order(pair: tuple[_Candidate, _Candidate], options: PreferenceOptions) -> tuple[_Candidate, _Candidate] | None:
    """(chosen, rejected), or None where neither is preferred."""
    first, second = pair
    sign = PREFERENCES[options.function](first.scored, second.scored, options.limits)
    return (first, second) if sign > 0 else (second, first) if sign < 0 else None


def _row(prompt: Prompt, chosen: _Candidate, rejected: _Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": list(prompt.messages)}
    if prompt.variables:
        row[VARIABLES] = prompt.variables
    for side, answer in zip(SIDES, (chosen, rejected), strict=True):
        row[side] = [{"role": "assistant", "content": answer.text}]
        row |= {f"score_{side}": answer.scored.score, f"words_{side}": answer.scored.words}
    return row


def _key_of(row: Mapping[str, Any]) -> str:
    return str(row["prompt"])


def _lengths(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over pairs, to see what is preferred: a longer or a shorter answer, a better one or one as good."""
    names = [f"{what}_{side}" for what in ("words", "score") for side in SIDES]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}
