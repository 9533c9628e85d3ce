"""What every judge of the rounds says of every version, so that a reward that is being exploited shows.

A judge is a stage of the round that scores answers: by the reward model that the rounds train for, by one they do not,
or by code. Two that were asked the same prompts should agree on which version is better; docs/rounds.md tells more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import Any

from ft import artifacts
from ft.data.axes import AXES
from ft.evaluation.diversity import self_bleu
from ft.evaluation.win_rate import by_scores, length, rate
from ft.figures.numbers import format_number
from ft.figures.result_files import ResultFiles, text_of
from ft.files import digest
from ft.recipe.rounds import Rounds
from ft.report.parts import Part, Sentences, Table
from ft.report.run import ReportedStage, Run
from ft.report.versions import Version, measured_alike

MOSTLY = 0.8
"""Share of decided pairs won by the longer answer above which length may be all that a judge sees."""
PROMPTS = 64
"""Prompts whose answers are compared with each other: enough for a mean, few enough for a page."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class VersionAnswer:
    text: str
    score: float


@dataclass(frozen=True)
class VersionScores:
    """What one judge gave one version, and what it gave the model the rounds began with, by prompt."""

    judge: str
    version: Version
    is_trained_for: bool
    is_code: bool
    data: tuple[Row, ...]
    own: Mapping[str, VersionAnswer]
    start: Mapping[str, VersionAnswer]
    topics: Mapping[str, str]


@dataclass(frozen=True)
class VersionWins:
    """How often a version's answer is the better one (ties count half), with a 95 % interval; and what length does."""

    win_rate: float
    low: float
    high: float
    longer_wins: float | None
    like_length_low: float | None

    @property
    def text(self) -> str:
        low, high = (format_number(end, True) for end in (self.low, self.high))
        return f"{format_number(self.win_rate, True)} ({low} to {high})"

    @property
    def may_be_length(self) -> bool:
        """Won, but by the longer answer nearly always, and not where both are of similar length."""
        longer = self.longer_wins is not None and self.longer_wins >= MOSTLY
        return self.low > 0.5 and longer and (self.like_length_low is None or self.like_length_low <= 0.5)


def judge_parts(rounds: Rounds, run: Run) -> list[Part]:
    """A table of all verdicts, what stands out in it in words, and how alike the answers of each round are."""
    scores = [one for name in rounds.names for one in _scores_of(rounds, name, run)]
    if not scores:
        return []
    verdicts = [_verdict(one, scores, run.seed or 0) for one in scores]
    warnings = tuple(alarms(verdicts))
    parts: list[Part] = [Sentences(warnings, warns=True)] if warnings else []
    parts.append(_table(verdicts))
    if diversity := _diversity(rounds, run):
        parts.append(diversity)
    return parts


@dataclass(frozen=True)
class VersionVerdict:
    """What a judge says of a version: against the start, and against the version before, where there is one."""

    scores: VersionScores
    against: Mapping[str, VersionWins]


AGAINST = ("the start", "the version before")


def alarms(verdicts: Sequence[VersionVerdict]) -> Iterator[str]:
    """Where a judge that is trained for and another differ beyond both intervals, and where length explains a win."""
    for verdict in verdicts:
        own = verdict.scores
        others = [other for other in verdicts if own.is_trained_for and _checks(other.scores, own)]
        for against, comparison in verdict.against.items():
            claim = f"{own.judge} prefers {own.version.name} to {against}"
            for other in others:
                other_comparison = other.against.get(against)
                if other_comparison and comparison.low > 0.5 > other_comparison.high:
                    contradiction = f"{other.scores.judge}, which nothing is trained for, does not"
                    rates = f"{comparison.text} against {other_comparison.text}"
                    yield f"{claim}, and {contradiction}: {rates}. The reward is being exploited."
            if comparison.may_be_length and not own.is_code:
                longer = format_number(comparison.longer_wins, True)
                yield f"{claim} by length: the longer answer wins {longer}, and answers of similar length tie."


def _checks(other: VersionScores, own: VersionScores) -> bool:
    """Whether a judge that nothing is trained for was asked the same of the same version."""
    return not other.is_trained_for and (other.version, other.data) == (own.version, own.data)


def compare(own: Mapping[str, VersionAnswer], other: Mapping[str, VersionAnswer], seed: int) -> VersionWins:
    """Prompt by prompt, over those both have answered."""
    pairs = [
        by_scores(own[prompt].score, other[prompt].score, (len(own[prompt].text), len(other[prompt].text)))
        for prompt in own
        if prompt in other
    ]
    won, lengths = rate(pairs, seed), length(pairs, seed)
    rates = won["win_rate"], won["win_rate_low"], won["win_rate_high"]
    return VersionWins(*rates, lengths["longer_wins"], lengths["like_length_win_rate_low"])


def _verdict(scores: VersionScores, all_scores: Sequence[VersionScores], seed: int) -> VersionVerdict:
    of_judge = [other for other in all_scores if other.judge == scores.judge]
    before = of_judge[: of_judge.index(scores)][-1:]
    against = zip(AGAINST, [scores.start, *(one.own for one in before)], strict=False)
    shared = {name: answers for name, answers in against if scores.own.keys() & answers.keys()}
    return VersionVerdict(scores, {name: compare(scores.own, answers, seed) for name, answers in shared.items()})


# Reading


def _scores_of(rounds: Rounds, name: str, run: Run) -> Iterator[VersionScores]:
    for version, stage in measured_alike(rounds, name, run):
        if stage.leaves == "metrics" and stage.result.done:
            files = ResultFiles(stage.result.folder, stage.blocks)
            verdicts = [*map(_of_verdict, files.lines(artifacts.VERDICTS))]
            answers = verdicts or [*map(_of_answer, files.lines(artifacts.ANSWERS))]
            by_prompt = {digest(row.get("prompt")): (row, own, start) for row, own, start in filter(None, answers)}
            if by_prompt:
                own_scores = {key: own for key, (_, own, _) in by_prompt.items()}
                start_scores = {key: start for key, (*_, start) in by_prompt.items()}
                column = next((block["by"] for block in stage.blocks.values() if block.get("by")), None)
                topics = {key: text_of(row.get(column)) for key, (row, *_) in by_prompt.items()} if column else {}
                is_code = not verdicts or bool(_functions(stage))
                judge = (name, version, _is_trained_for(stage, run), is_code, stage.data)
                yield VersionScores(*judge, own_scores, start_scores, topics)


def _of_answer(row: Row) -> tuple[Row, VersionAnswer, VersionAnswer] | None:
    """An evaluation's line: a score for each model's answer."""
    if not all(type(row.get(name)) in (int, float) for name in ("score", "baseline_score")):
        return None
    own = VersionAnswer(text_of(row.get("completion")), row["score"])
    return row, own, VersionAnswer(text_of(row.get("baseline_completion")), row["baseline_score"])


def _of_verdict(row: Row) -> tuple[Row, VersionAnswer, VersionAnswer] | None:
    """A judge's line: how far one answer is above the other."""
    sign = {"win": 1, "tie": 0, "loss": -1}.get(str(row.get("outcome")))
    if sign is None or type(row.get("margin")) not in (int, float):
        return None
    own = VersionAnswer(text_of(row.get("answer")), sign * row["margin"])
    return row, own, VersionAnswer(text_of(row.get("other_answer")), 0.0)


def _is_trained_for(stage: ReportedStage, run: Run) -> bool:
    """Whether the run chooses or rewards answers by the reward model, or the function, that judges here."""
    models = {parent for one in run.stages for parent, role in one.links if role in AXES}
    functions = {
        name
        for one in run.stages
        for block in one.blocks.values()
        for name, weight in (block.get("rewards") or {}).items()
        if weight
    }
    return bool(models & {parent for parent, role in stage.links if role == "scorer"} or functions & _functions(stage))


def _functions(stage: ReportedStage) -> set[str]:
    """The functions of ft.rewards that judge here."""
    named = {block.get(key) for block in stage.blocks.values() for key in ("reward", "function")}
    return {name for name in named if isinstance(name, str)}


# Tables


def _table(verdicts: Sequence[VersionVerdict]) -> Table:
    against = tuple(f"against {one}" for one in AGAINST)
    head = ("version", "judged by", "trained for", *against, "characters", "loses most on")
    lines = []
    for verdict in verdicts:
        scores = verdict.scores
        texts = [verdict.against[one].text if one in verdict.against else "·" for one in AGAINST]
        characters = mean(len(answer.text) for answer in scores.own.values())
        trained_for = "yes" if scores.is_trained_for else "no"
        lines.append((scores.version.name, scores.judge, trained_for, *texts, f"{characters:.0f}", _worst(scores)))
    note = "Answers that are the better ones (a tie is half a win), with 95 % intervals; characters of the mean answer."
    return Table(head, tuple(lines), "What the judges say", note=note)


def _worst(scores: VersionScores) -> str:
    """The topic whose mean score fell most against the start; nothing where none fell."""
    gains: dict[str, list[float]] = defaultdict(list)
    for key, topic in scores.topics.items():
        gains[topic].append(scores.own[key].score - scores.start[key].score)
    topic, values = min(gains.items(), key=lambda pair: mean(pair[1]), default=("", [0.0]))
    return f"{topic} ({mean(values):+.2f}, {len(values)} prompts)" if mean(values) < 0 else "·"


def _diversity(rounds: Rounds, run: Run) -> Table | None:
    lines = []
    for name in rounds.names:
        for version, stage in measured_alike(rounds, name, run):
            by_temperature: dict[float, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
            for row in ResultFiles(stage.result.folder).lines(artifacts.SAMPLES):
                by_temperature[row.get("temperature", 0.0)][digest(row.get("prompt"))].append(
                    text_of(row.get("completion"))
                )
            for temperature, by_prompt in sorted(by_temperature.items()):
                value = self_bleu([*islice(by_prompt.values(), PROMPTS)])
                if value is not None:
                    lines.append((version.name, f"{temperature:g}", f"{value:.2f}"))
    note = f"Of the answers to {PROMPTS} prompts at most; 1: every answer to a prompt is the same."
    return Table(("answers of", "temperature", "Self-BLEU"), tuple(lines), "Diversity", note=note) if lines else None
