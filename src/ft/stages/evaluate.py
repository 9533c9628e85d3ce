"""Answers to held-out prompts, judged by code, of the model made and of the one it started from."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ft.data.mixture import BadRows, mixed
from ft.data.read import Source
from ft.errors import fail
from ft.files import write_json
from ft.models.generate import Sampling
from ft.models.speak import Speaker
from ft.rewards import REWARDS
from ft.stages.job import Job
from ft.stages.pictures import before_and_after


@dataclass(frozen=True)
class EvaluateOptions:
    """How answers are made and judged: a recipe's `evaluate:` block.

    reward          name of a function in ft.rewards, or module:function is not allowed: a recipe runs no code
    max_new_tokens  longest answer, in tokens
    temperature     0 answers greedily
    batch_size      prompts answered side by side
    baseline        also judge the recipe's model (or the input `baseline`), to show what was learnt
    kl              also estimate how far the model is from the baseline: KL(model || baseline) in nats an answer
    by              column whose values the score is split by
    dialogue        user turns of a sample dialogue, answered one after the other and shown at the end
    """

    reward: str = "answer"
    max_new_tokens: int = 64
    temperature: float = 0.0
    batch_size: int = 64
    baseline: bool = True
    kl: bool = False
    by: str | None = None
    dialogue: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"there is no reward '{self.reward}'; there are: {', '.join(REWARDS)}")


def make(job: Job) -> dict[str, Any]:
    """Write answers.jsonl, metrics.json, scores.png and dialogue.json; return the scores."""
    options = EvaluateOptions(**job.block("evaluate"))
    rows = _rows(job)
    after = _judged(job, job.init, rows, options)
    scores: dict[str, Any] = _summary(options.reward, after)
    before = None
    if options.baseline:
        before = _judged(job, job.inputs.get("baseline"), rows, options)
        scores |= {f"baseline_{name}": value for name, value in _summary(options.reward, before).items()}
    _write_answers(job.folder / "answers.jsonl", rows, after, before)
    if options.kl:
        scores |= _kl(job, rows, options)
    if options.by:
        scores["by"] = _by(options, rows, after, before, job.folder)
    if options.dialogue:
        write_json(job.folder / "dialogue.json", _dialogue(job, options))
    write_json(job.folder / "metrics.json", scores)
    return scores


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): honest near 0 and 1, where the normal interval is not."""
    share, spread = right / count, z * z / count
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class _Judged:
    text: str
    score: float


def _rows(job: Job) -> list[dict[str, Any]]:
    bad = BadRows("error", None)
    rows = [located.row for located in mixed([Source(**s) for s in job.data], seed=job.seed, bad=bad)]
    for row in rows:
        if "prompt" not in row:
            raise fail(job.where, "evaluation rows are prompts", "Write `format: prompt` at the source.")
    return rows


def _speaker(job: Job, folder: Path | None) -> Speaker:
    return Speaker(job.model, folder, job.template, job.blocks.get("quantization"))


def _sampling(job: Job, options: EvaluateOptions) -> Sampling:
    return Sampling(options.max_new_tokens, options.temperature, seed=job.seed)


def _judged(job: Job, folder: Path | None, rows: list[dict[str, Any]], options: EvaluateOptions) -> list[_Judged]:
    prompts = [row["prompt"] for row in rows]
    texts = _speaker(job, folder).answer(prompts, _sampling(job, options), options.batch_size)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [row.get(name) for row in rows] for name in rows[0] if name != "prompt"}
    scores = REWARDS[options.reward](prompts, completions, **columns)
    return [_Judged(text, score) for text, score in zip(texts, scores, strict=True)]


def _kl(job: Job, rows: list[dict[str, Any]], options: EvaluateOptions) -> dict[str, float]:
    """KL(model || baseline) in nats an answer, and its standard error: the mean log-ratio of the model's own answers.

    They are drawn at temperature 1 whatever the judged ones are, because only the model's own distribution gives this
    mean its meaning. An answer ends with its end-of-turn token or at max_new_tokens.
    """
    speaker = _speaker(job, job.init)
    prompts = [speaker.renderer.prompt(row["prompt"]) for row in rows]
    sampling = Sampling(options.max_new_tokens, temperature=1.0, seed=job.seed)
    answers = speaker.continued(prompts, sampling, options.batch_size)
    own = speaker.logps(prompts, answers, options.batch_size)
    del speaker  # two models need not stand in memory at once
    other = _speaker(job, job.inputs.get("baseline")).logps(prompts, answers, options.batch_size)
    ratios = [a - b for a, b in zip(own, other, strict=True)]
    error = stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
    return {"kl": mean(ratios), "kl_error": error}


def _summary(reward: str, judged: list[_Judged]) -> dict[str, float]:
    """The mean score and, where scores are shares of right and wrong, its 95 % interval."""
    total = sum(j.score for j in judged)
    low, high = wilson(total, len(judged)) if all(0 <= j.score <= 1 for j in judged) else (math.nan, math.nan)
    return {reward: total / len(judged), f"{reward}_low": low, f"{reward}_high": high}


def _by(
    options: EvaluateOptions,
    rows: list[dict[str, Any]],
    after: list[_Judged],
    before: list[_Judged] | None,
    folder: Path,
) -> dict[str, dict[str, float]]:
    """Scores per value of the column `by`, written as a picture too."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[str(row.get(options.by or ""))].append(place)
    now = {name: _mean(after, places) for name, places in groups.items()}
    was = {name: _mean(before, places) if before else None for name, places in groups.items()}
    before_and_after({n: (was[n], now[n]) for n in now}, folder / "scores.png", "held-out prompts", options.reward)
    return {name: {"rows": len(groups[name]), "score": now[name]} for name in now}


def _mean(judged: list[_Judged], places: list[int]) -> float:
    return sum(judged[place].score for place in places) / len(places)


def _write_answers(path: Path, rows: list[dict[str, Any]], after: list[_Judged], before: list[_Judged] | None) -> None:
    with path.open("w", encoding="utf-8") as out:
        for place, row in enumerate(rows):
            line = {**row, "completion": after[place].text, "score": after[place].score}
            if before:
                line |= {"baseline_completion": before[place].text, "baseline_score": before[place].score}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _dialogue(job: Job, options: EvaluateOptions) -> list[dict[str, str]]:
    """The sample dialogue, each answer seeing those before it."""
    speaker = _speaker(job, job.init)
    messages: list[dict[str, str]] = []
    for turn in options.dialogue:
        messages.append({"role": "user", "content": turn})
        messages.append({"role": "assistant", "content": speaker.answer([messages], _sampling(job, options))[0]})
    return messages
