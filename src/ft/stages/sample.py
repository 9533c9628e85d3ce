"""Rejection sampling: K answers a prompt from the newest policy, scored, and the best of them as rows to train on.

Llama 2 (arXiv:2307.09288, section 3.2.3) fine-tunes on the best answers of all rounds; docs/reward.md tells how.
"""

from __future__ import annotations

import csv
import math
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from ft import artifacts
from ft.data.axes import AXES, SAFETY_THRESHOLD
from ft.data.formats.columns import Row
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, Sample, answer_rows, best_row, earlier, is_earlier, pair_row, prompt_in
from ft.data.selection import curve, hottest, of_best
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.figures.sampling import sampling
from ft.figures.write import write_figures
from ft.files import write_lines
from ft.lazy_sequence import LazySequence, joined
from ft.models.generation.backends import BackendOptions, WorkerSpec
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.sampler import SampledAnswer, Sampler
from ft.models.identity import policy_identity
from ft.models.processor import tokenizer_of
from ft.recipe.job import Job
from ft.rewards import REWARDS
from ft.rl.answer_pool import AnswerPool, DrawnAnswers
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
    drawn, temperature = _draw(job, options, read.prompts, sampler, scorer)
    sampler.unload()
    pool = AnswerPool(drawn, read.earlier)
    scores = scorer.scores(pool.samples, "scores")
    counts = read.counts | drawn.counts | {"unscored": sum(not score.is_readable for score in scores)}
    rows = _Rows(options, lambda: pool.by_prompt(read.prompts, scores))
    write_lines(job.folder / artifacts.SAMPLES, _describe_samples(drawn, scores))
    write_lines(job.folder / artifacts.ROWS, rows)
    counts |= rows.counts
    if not counts["rows"] or not any(score.is_readable for score in islice(scores, len(drawn.usable))):
        raise fail(job.where, f"no answer can be taken: {counts}", "Look at answers.jsonl.")
    numbers = counts | {"temperature": temperature, "round": read.round}
    if scorer.scores_anything:
        numbers |= _measure_gain(job, options, drawn, LazySequence(len(drawn.usable), scores.__getitem__))
    write_figures(job, sampling, f"{job.name}, {len(read.prompts):,} prompts")
    return numbers


# Reading


@dataclass
class _Read:
    """Prompts to answer with their tokens by key, answers of earlier rounds that compete, and this round's number."""

    prompts: list[Prompt] = field(default_factory=list)
    ids: dict[str, array[int]] = field(default_factory=dict)
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
            ids = array("i", renderer.prompt(prompt.messages, variables=prompt.variables))
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


def _draw(
    job: Job, options: SampleOptions, prompts: Sequence[Prompt], sampler: Sampler, scorer: AnswerScorer
) -> tuple[DrawnAnswers, float]:
    """The answers, and the temperature they were drawn at; those drawn at it while others were tried come first."""
    temperature, few = options.temperature, DrawnAnswers([], [], options.samples)
    if options.temperatures:
        tried = _try_temperatures(job, options, prompts, sampler)
        sampler.unload()
        temperature = _choose_temperature(job, tried, scorer)
        few = tried[temperature]
    few_keys = {prompt.key for prompt in few.prompts}
    others = [prompt for prompt in prompts if prompt.key not in few_keys]
    answers = sampler.answers(others, temperature, job.folder / artifacts.ANSWERS)
    drawn = DrawnAnswers([*few.prompts, *others], joined(few.answers, answers), options.samples)
    return drawn, temperature


def _try_temperatures(
    job: Job, options: SampleOptions, prompts: Sequence[Prompt], sampler: Sampler
) -> dict[float, DrawnAnswers]:
    """Answers to a few prompts at each temperature, from the lowest."""
    count = min(options.sweep_prompts, len(prompts))
    places = sorted(random.Random(f"{job.seed} sweep").sample(range(len(prompts)), count))
    few = [prompts[place] for place in places]
    return {
        t: DrawnAnswers(few, sampler.answers(few, t, job.folder / f"sweep-{t:g}.jsonl"), options.samples)
        for t in sorted(set(options.temperatures))
    }


def _choose_temperature(job: Job, tried: Mapping[float, DrawnAnswers], scorer: AnswerScorer) -> float:
    """The temperature whose best answers score highest; temperatures.csv."""
    scores = scorer.scores([sample for drawn in tried.values() for sample in drawn.usable_samples], "sweep-scores")
    if not any(score.is_readable for score in scores):
        what = "no answer of the sweep came to its end and can be scored"
        raise fail(job.where, what, "Raise max_new_tokens, or lower temperatures.")
    rewards = iter([score.reward for score in scores])
    lowest = min(score.reward for score in scores)
    points = {t: curve(drawn.table(islice(rewards, len(drawn.usable)), lowest))[-1] for t, drawn in tried.items()}
    _write_table(
        job.folder / "temperatures.csv",
        ("temperature", "best", "median"),
        [(t, point.best, point.median) for t, point in points.items()],
    )
    return hottest(lambda t: points[t].best, list(points))


class _Rows:
    """The rows of all prompts' candidates, made again whenever they are asked for, since they may be millions. Of those
    `options.keep` leaves the share that is worth most: where even the best answer is bad, it teaches badness.

    counts  of the rows made last: ties (prompts that give no row), weak (rows that are not kept), rows
    """

    def __init__(self, options: SampleOptions, candidates: Callable[[], Iterator[list[Sample]]]):
        self.options, self.candidates = options, candidates
        self._weak = self._find_weak() if options.keep < 1 else frozenset()
        self.counts = dict.fromkeys(("ties", "weak", "rows"), 0)

    def _all(self) -> Iterator[Row | None]:
        return (row for samples in self.candidates() for row in ROWS_BY_WRITE[self.options.write](samples))

    def _find_weak(self) -> frozenset[int]:
        """Numbers, among the rows, of those that are not kept."""
        rewards = array("d")
        for row in self._all():
            if row is not None:
                rewards.append(row["margin"] if "chosen" in row else row["sampled"]["score"])
        best_first = sorted(range(len(rewards)), key=lambda place: -rewards[place])
        return frozenset(best_first[math.ceil(self.options.keep * len(rewards)) :])

    def __iter__(self) -> Iterator[Row]:
        self.counts = counts = dict.fromkeys(self.counts, 0)
        for row in self._all():
            if row is None:
                counts["ties"] += 1
            elif counts["rows"] + counts["weak"] in self._weak:
                counts["weak"] += 1
            else:
                counts["rows"] += 1
                yield row


# What it was worth


def _measure_gain(
    job: Job, options: SampleOptions, drawn: DrawnAnswers, scores: Sequence[AnswerScore]
) -> dict[str, float]:
    """What the best of K is worth beside a single answer, by the score and by each function; best_of_n.csv. `scores`
    are those of the usable answers."""
    import numpy as np

    table = drawn.table((one.reward for one in scores), min(one.reward for one in scores))
    points = curve(table)
    by_function: dict[str, list[float]] = {}
    numbers = _gain(f"best_of_{options.samples}", points[0].best, points[-1].best, table.max(axis=1).tolist())
    for name in options.rewards:
        lowest = min(one.parts[name] or 0.0 for one in scores)
        values = drawn.table((one.parts[name] or 0.0 for one in scores), lowest)
        by_function[name] = of_best(table, values)
        chosen = np.take_along_axis(values, table.argmax(axis=1)[:, None], axis=1)[:, 0]
        numbers |= _gain(name, by_function[name][0], by_function[name][-1], chosen.tolist())
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


def _describe_samples(drawn: DrawnAnswers, scores: Sequence[AnswerScore]) -> Iterator[dict[str, Any]]:
    usable_scores = iter(scores)
    for answer in drawn.answers:
        yield _describe_sample(answer, next(usable_scores) if answer.usable else None)


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
