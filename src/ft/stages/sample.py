"""Rejection sampling: K answers a prompt from the newest policy, scored, and the best of them as rows to train on.

Llama 2 (arXiv:2307.09288, section 3.2.3) fine-tunes on the best answers of all rounds; docs/reward.md tells how.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from ft import artifacts
from ft.data.axes import AXES, SAFETY_THRESHOLD
from ft.data.formats.columns import Row
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, Sample, answer_rows, best_row, earlier, is_earlier, pair_row, prompt_in
from ft.data.selection import best, curve, hottest, of_best
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.figures.sampling import sampling
from ft.figures.write import write_figures
from ft.files import write_lines
from ft.models.generation.backends import BackendOptions, WorkerSpec
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.sampler import SampledAnswer, Sampler
from ft.models.identity import policy_identity
from ft.models.processor import tokenizer_of
from ft.recipe.job import Job
from ft.rewards import REWARDS
from ft.rl.scoring import AnswerScore, AnswerScorer


@dataclass(frozen=True)
class SampleOptions:
    """How answers are drawn and chosen: a recipe's `sample:` block.

    samples           answers a prompt (K)
    temperature       of the answers
    temperatures      tried on a few prompts; the one with the best mean best-of-K takes the place of `temperature`
    sweep_prompts     how many prompts they are tried on, drawn by seed
    top_p             likeliest tokens up to this share of probability; 1: all
    max_new_tokens    longest answer, in tokens, its end counted; what does not end in it is never a row
    batch_size        answers made, or scored, side by side
    rewards           functions of ft.rewards that score, each with its weight: {quality: 1.0}; with weight 0 one
                      only measures what the reward models choose
    safety_threshold  with two reward models: σ(safety) below which an answer counts as unsafe
    write             best: a row to fine-tune on for each prompt. pairs: best and worst as chosen and rejected.
                      all: a row for each answer, for a stage that scores them; then nothing need score here
    keep              share of the rows that is written: those whose best answer (of a pair, whose margin) is worth most
    pool              all: answers of earlier rounds, rows of `data` that a sample stage wrote, compete too. last: they
                      do not, the ablation
    """

    samples: int = 8
    temperature: float = 1.0
    temperatures: list[float] = field(default_factory=list)
    sweep_prompts: int = 64
    top_p: float = 1.0
    max_new_tokens: int = 64
    batch_size: int = 64
    rewards: dict[str, float] = field(default_factory=dict)
    safety_threshold: float = SAFETY_THRESHOLD
    write: Literal["best", "pairs", "all"] = "best"
    keep: float = 1.0
    pool: Literal["all", "last"] = "all"
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        for name in ("samples", "sweep_prompts", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for temperature in (self.temperature, *self.temperatures):
            if temperature < 0 or (temperature == 0 and self.samples > 1):
                raise ValueError(f"temperature is {temperature}; several answers of one prompt need one above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it is a share, above 0 and up to 1")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it is a share, above 0 and up to 1")
        if not 0 <= self.safety_threshold <= 1:
            raise ValueError(f"safety_threshold is {self.safety_threshold}; it is a share, from 0 to 1")
        if self.write == "pairs" and self.samples < 2:
            raise ValueError("samples is 1; a pair needs two answers")
        if self.write == "all" and self.keep < 1:
            raise ValueError("keep is a share of the best rows, and write: all leaves every one")
        for name in self.rewards:
            if name not in REWARDS:
                raise ValueError(f"rewards: there is no reward '{name}'; there are: {', '.join(REWARDS)}")


ROWS_BY_WRITE: dict[str, Callable[[Sequence[Sample]], list[Row | None]]] = {
    "best": lambda samples: [best_row(samples)],
    "pairs": lambda samples: [pair_row(samples)],
    "all": answer_rows,
}


def make(job: Job) -> dict[str, Any]:
    """Write rows.jsonl, every candidate in samples.jsonl, tables and pictures; return what became of the answers."""
    options = with_decoding(SampleOptions(**job.block("sample")), job)
    scorer = _make_scorer(job, options)
    read = _read(job, options, scorer)
    sampler = _sampler(job, options, read)
    temperature, tried = _choose_temperature(job, options, read.prompts, sampler, scorer)
    tried_keys = {answer.sample.prompt.key for answer in tried}
    untried = [prompt for prompt in read.prompts if prompt.key not in tried_keys]
    answers = [*tried, *sampler.answers(untried, temperature, job.folder / artifacts.ANSWERS)]
    sampler.unload()
    pool = [*_usable_samples(answers), *read.earlier]
    scored = scorer.scores(pool, "scores")
    readable = [_with_score(sample, scored[sample.key]) for sample in pool if scored[sample.key].is_readable]
    candidates = _by_prompt(read, readable)
    rows_of_prompts = [row for samples in candidates for row in ROWS_BY_WRITE[options.write](samples)]
    candidate_rows = [row for row in rows_of_prompts if row]
    rows = _keep_best(candidate_rows, options.keep)
    counts = read.counts | _count_fates(answers)
    counts |= {"unscored": len(pool) - len(readable), "ties": len(rows_of_prompts) - len(candidate_rows)}
    counts |= {"weak": len(candidate_rows) - len(rows), "rows": len(rows)}
    if not rows or not any(scored[sample.key].is_readable for sample in _usable_samples(answers)):
        raise fail(job.where, f"no answer can be taken: {counts}", "Look at answers.jsonl.")
    write_lines(job.folder / artifacts.SAMPLES, [_describe_sample(one, scored.get(one.sample.key)) for one in answers])
    write_lines(job.folder / artifacts.ROWS, rows)
    numbers = counts | {"temperature": temperature, "round": read.round}
    if scorer.scores_anything:
        numbers |= _measure_gain(job, options, answers, scored)
    write_figures(job, sampling, f"{job.name}, {len(read.prompts):,} prompts")
    return numbers


# Reading


@dataclass
class _Read:
    """Prompts to answer with their tokens by key, answers of earlier rounds that compete, and this round's number."""

    prompts: list[Prompt] = field(default_factory=list)
    ids: dict[str, list[int]] = field(default_factory=dict)
    earlier: list[Sample] = field(default_factory=list)
    round: int = 1
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("prompts", "repeated", "earlier"), 0))


def _read(job: Job, options: SampleOptions, scorer: AnswerScorer) -> _Read:
    """The rows of `data`; bad ones are told or set aside. A prompt that stands there twice is asked once."""
    renderer = Renderer(tokenizer_of(job.model, job.init, job.template))
    bad, read = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS), _Read()
    pool: dict[str, Sample] = {}
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        try:
            if is_earlier(source_row.row):
                for sample in earlier(source_row):
                    scorer.check(sample.prompt.columns)
                    pool[sample.key] = sample
                continue
            prompt = prompt_in(source_row)
            scorer.check(prompt.columns)
            ids = renderer.prompt(prompt.messages, variables=prompt.variables)
        except BadRow as error:
            bad.add(source_row.where, source_row.row, error)
            continue
        if prompt.key in read.ids:
            read.counts["repeated"] += 1
        else:
            read.prompts.append(prompt)
            read.ids[prompt.key] = ids
    bad.finish()
    if not read.prompts:
        raise fail(job.where, "data holds no prompt", "Rows of earlier rounds compete; name prompts beside them.")
    read.round += max((int(sample.origin["round"]) for sample in pool.values()), default=0)
    read.earlier = list(pool.values()) if options.pool == "all" else []
    read.counts |= {"prompts": len(read.prompts), "rejected": bad.count, "earlier": len(read.earlier)}
    read.counts |= {"left_out": len(pool) - len(read.earlier)}
    return read


def _make_scorer(job: Job, options: SampleOptions) -> AnswerScorer:
    if options.write != "all" and not any(options.rewards.values()) and not job.inputs:
        fix = "Write `inputs: {helpful: $reward}`, or `sample: {rewards: {answer: 1.0}}`."
        raise fail(job.where, "nothing scores the answers", fix)
    return AnswerScorer(
        models={axis: job.inputs[axis] for axis in AXES if axis in job.inputs},
        rewards=options.rewards,
        threshold=options.safety_threshold,
        batch_size=options.batch_size,
        folder=job.folder,
        name=job.name,
    )


def _sampler(job: Job, options: SampleOptions, read: _Read) -> Sampler:
    backend = BackendOptions(**job.block("backend"))
    policy = backend.model if backend.model and job.init is None else policy_identity(job)
    sampling = decoding_of(job).sampling(options.max_new_tokens, options.temperature, options.top_p, job.seed)
    origin: dict[str, str | int] = {"policy": policy, "round": read.round}
    spec = WorkerSpec.of(job, options.batch_size, backend)
    return Sampler(job.name, spec, read.ids, origin, sampling, options.samples)


# Choosing


def _choose_temperature(
    job: Job, options: SampleOptions, prompts: Sequence[Prompt], sampler: Sampler, scorer: AnswerScorer
) -> tuple[float, list[SampledAnswer]]:
    """The temperature to draw at, and what has been drawn at it while others were tried."""
    if not options.temperatures:
        return options.temperature, []
    count = min(options.sweep_prompts, len(prompts))
    places = sorted(random.Random(f"{job.seed} sweep").sample(range(len(prompts)), count))
    few = [prompts[place] for place in places]
    tried = {t: sampler.answers(few, t, job.folder / f"sweep-{t:g}.jsonl") for t in sorted(set(options.temperatures))}
    sampler.unload()
    scored = scorer.scores(
        _usable_samples([answer for answers in tried.values() for answer in answers]), "sweep-scores"
    )
    if not any(score.is_readable for score in scored.values()):
        what = "no answer of the sweep came to its end and can be scored"
        raise fail(job.where, what, "Raise max_new_tokens, or lower temperatures.")
    lowest = min(score.reward for score in scored.values())
    points = {t: curve(_table(answers, scored, options.samples, lowest))[-1] for t, answers in tried.items()}
    rows_by_temperature = [(t, point.best, point.median) for t, point in sorted(points.items())]
    _write_table(job.folder / "temperatures.csv", ("temperature", "best", "median"), rows_by_temperature)
    chosen = hottest(lambda t: points[t].best, list(points))
    return chosen, tried[chosen]


def _usable_samples(answers: Sequence[SampledAnswer]) -> list[Sample]:
    return [answer.sample for answer in answers if answer.usable]


def _with_score(sample: Sample, score: AnswerScore) -> Sample:
    return replace(sample, score=score.reward, parts=score.parts)


def _by_prompt(read: _Read, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The candidates for each prompt: this round's prompts first, then those that only earlier rounds have."""
    by_prompt: dict[str, list[Sample]] = {prompt.key: [] for prompt in read.prompts}
    for sample in samples:
        by_prompt.setdefault(sample.prompt.key, []).append(sample)
    return [candidates for candidates in by_prompt.values() if candidates]


def _keep_best(rows: Sequence[Row], share: float) -> list[Row]:
    """The share of rows that are worth most, in their order: where even the best answer is bad, it teaches badness."""
    rewards = [row["margin"] if "chosen" in row else row["sampled"]["score"] for row in rows]
    places = sorted(range(len(rows)), key=lambda place: -rewards[place])[: math.ceil(share * len(rows))]
    return [rows[place] for place in sorted(places)]


# What it was worth


def _count_fates(answers: Sequence[SampledAnswer]) -> dict[str, int]:
    """What became of the answers; those of prompts too long for the model are none."""
    given = [answer for answer in answers if answer.fits and not answer.failed]
    failed = sum(bool(answer.failed) for answer in answers)
    return {
        "answers": len(given),
        "tokens": sum(answer.tokens for answer in given),
        "too_long": sum(not answer.fits for answer in answers),
        "unfinished": sum(not answer.ended for answer in given),
        "empty": sum(answer.ended and not answer.usable for answer in given),
        **({"failed": failed} if failed else {}),
    }


def _table(
    answers: Sequence[SampledAnswer], scored: Mapping[str, AnswerScore], count: int, lowest: float, part: str = ""
) -> list[list[float]]:
    """The rewards of each prompt's answers, or one function's values of them (`part`). One that is cut or empty counts
    as the `lowest` of all: a curve over other prompts at every N would show which prompts were left, not what N answers
    are worth."""
    scores = [scored.get(answer.sample.key) for answer in answers]
    values = [(one.parts[part] or 0.0 if part else one.reward) if one else lowest for one in scores]
    rows = [values[first : first + count] for first in range(0, len(values), count)]
    return [row for row, first in zip(rows, answers[::count], strict=True) if first.fits]


def _measure_gain(
    job: Job, options: SampleOptions, answers: Sequence[SampledAnswer], scored: Mapping[str, AnswerScore]
) -> dict[str, float]:
    """What the best of K is worth beside a single answer, by the score and by each function; best_of_n.csv."""
    own = [scored[sample.key] for sample in _usable_samples(answers)]
    lowest, count = min(one.reward for one in own), options.samples
    table = _table(answers, scored, count, lowest)
    points = curve(table)
    by_function: dict[str, list[float]] = {}
    numbers = _gain(f"best_of_{count}", points[0].best, points[-1].best, [max(row) for row in table])
    for name in options.rewards:
        values = _table(answers, scored, count, min(one.parts[name] or 0.0 for one in own), name)
        by_function[name] = of_best(table, values)
        chosen = [row[best(scores)] for row, scores in zip(values, table, strict=True)]
        numbers |= _gain(name, by_function[name][0], by_function[name][-1], chosen)
    lines = [
        (point.answers, point.best, point.median, *(values[place] for values in by_function.values()))
        for place, point in enumerate(points)
    ]
    _write_table(job.folder / "best_of_n.csv", ("answers", "best", "median", *by_function), lines)
    return numbers | {"median": points[-1].median}


def _gain(name: str, single: float, chosen: float, values: Sequence[float]) -> dict[str, float]:
    """The mean of `values`, one a prompt, beside that of a single answer; where they are shares, its 95 % interval."""
    numbers = {name: chosen, f"baseline_{name}": single}
    if len(values) > 1 and min(values) >= 0 and max(values) <= 1:
        spread = 1.96 * stdev(values) / math.sqrt(len(values))
        numbers |= {f"{name}_low": max(0.0, chosen - spread), f"{name}_high": min(1.0, chosen + spread)}
    return numbers


# Writing


def _describe_sample(answer: SampledAnswer, score: AnswerScore | None) -> dict[str, Any]:
    """One answer for people and for later questions, also where it became no row."""
    sample = answer.sample
    rewards = {"score": score.reward if score and score.is_readable else None, "scores": score.parts if score else {}}
    details = {"ended": answer.ended, "tokens": answer.tokens, "source": sample.prompt.where.rpartition("/")[2]}
    return {"prompt": sample.prompt.messages, "completion": sample.text, **sample.origin, **rewards, **details}


def _write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        table.writerows([f"{value:.6g}" for value in row] for row in rows)
