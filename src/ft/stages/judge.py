"""Two models answer the same prompts, and a judge says which answer is better; docs/evaluation.md tells how to read it.

What a pair comes to is in ft.evaluation.win_rate, who judges in ft.evaluation.llm_judge.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.console import Terminal
from ft.data.axes import HELPFUL
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, prompt_in
from ft.data.sources.read import Source
from ft.encode.conversation import Renderer
from ft.errors import fail
from ft.evaluation.judge_prompt import JudgePrompt
from ft.evaluation.llm_judge import AnswerPair, ByScore, ByWords, Judge, JudgedPair
from ft.evaluation.respondent import replying_model, stored_replies
from ft.evaluation.win_rate import PairOutcome, by_length, groups, numbers
from ft.figures.win_rates import win_rates
from ft.figures.write import write_figures
from ft.files import digest, write_json, write_lines
from ft.hub import local_path
from ft.models.generation.backends import WorkerSpec
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.replies import copy_earlier
from ft.models.generation.sampler import SampledAnswer, Sampler
from ft.models.identity import hashes, model_identity, policy_identity
from ft.models.processor import tokenizer_of
from ft.recipe import Stage
from ft.recipe.job import Job
from ft.result import Result
from ft.rewards import REWARDS
from ft.rl.scoring import AnswerScorer


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges, and how the answers are made: a recipe's `judge:` block.

    kind            reward: the reward model `inputs: {scorer: $stage}`. function: `function`, one of ft.rewards.
                    model: the model `inputs: {judge: $stage}` or `model`, a Hub id. server: what `backend:` names
    function        function: its name
    model           model: a Hub id, at `revision`
    prompt          model, server: the file with the judge's prompt, as data/judge/pairwise.yaml
    reply_tokens    model, server: longest reply of the judge, in tokens
    tie             reward, function: scores no further apart make a tie
    max_new_tokens  longest answer, in tokens
    temperature     of the answers; 0 answers greedily
    top_p           likeliest tokens up to this share of probability; 1: all
    batch_size      answers made, scored or judged side by side
    by              column whose values the win rate is split by
    on_bad_row      a prompt that one of the models cannot be asked: error, or reject (set aside, counted)
    """

    kind: Literal["reward", "function", "model", "server"]
    function: str | None = None
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    reply_tokens: int = 256
    tie: float = 0.0
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 64
    by: str | None = None
    on_bad_row: Literal["error", "reject"] = "error"

    def __post_init__(self) -> None:
        if self.kind == "function" and self.function not in REWARDS:
            raise ValueError(f"function is '{self.function}'; there are: {', '.join(REWARDS)}")
        for name, kinds in READ_BY.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f"{name} is for kind: {' or '.join(kinds)}")
        if self.kind in READ_BY["prompt"] and not self.prompt:
            raise ValueError("prompt is missing: the file with the judge's question, as data/judge/pairwise.yaml")
        if self.model and local_path(self.model) is not None:
            raise ValueError(f"model is '{self.model}'; write a Hub id (owner/name), or `inputs: {{judge: $stage}}`")
        for name in ("reply_tokens", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.tie < 0 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("tie and temperature must not be below 0, and top_p above 0 and up to 1")


READ_BY = {
    "function": ("function",),
    "model": ("model",),
    "revision": ("model",),
    "prompt": ("model", "server"),
}
SIDES = ("answer", "other_answer")


def check_prompt(stage: Stage) -> None:
    """UserError where the judge's prompt lacks a part or does not compile."""
    if prompt := stage.blocks["judge"].get("prompt"):
        JudgePrompt.read(Path(prompt))


def make(job: Job) -> dict[str, Any]:
    """Write verdicts.jsonl, metrics.json, rows.jsonl (preferences) and judge.svg; return the numbers."""
    options = with_decoding(JudgeOptions(**job.block("judge")), job)
    judge, judge_record = judge_of(job, options)
    sides = (job, replace(job, init=job.inputs.get("other")))
    prompts, ids, rejected = _read(job, options, sides)
    answers = [_draw_answers(side, options, prompts, tokens) for side, tokens in zip(sides, ids, strict=True)]
    pairs = [AnswerPair(own.sample, other.sample) for own, other in zip(*answers, strict=True)]
    judged_pairs = _judge_pairs(judge, pairs)
    results = [judged.result for judged in judged_pairs]
    if not any(result.outcome for result in results):
        what = f"none of the {len(pairs)} pairs has a verdict"
        written = _write_verdicts(job, judge_record, answers, judged_pairs)
        raise fail(job.where, what, f"Look at what the judge said: {written}")
    counts = numbers(results, job.seed) | {"rejected": rejected}
    counts |= {"unfinished": _count_unfinished(answers[0]), "other_unfinished": _count_unfinished(answers[1])}
    if options.by:
        values = [str(prompt.columns.get(options.by)) for prompt in prompts]
        counts["by"] = groups(results, values, job.seed)
    counts["by_length"] = by_length(results, job.seed)
    counts |= {"models": [model_name(side) for side in sides], "judge": judge_record}
    _write_verdicts(job, judge_record, answers, judged_pairs)
    rows = (preference(pair, judged) for pair, judged in zip(pairs, judged_pairs, strict=True))
    write_lines(job.folder / artifacts.ROWS, filter(None, rows))
    write_json(job.folder / artifacts.NUMBERS, counts)
    write_figures(job, win_rates, " against ".join(counts["models"]))
    show(counts)
    return counts


def judge_of(job: Job, options: JudgeOptions) -> tuple[Judge, dict[str, Any]]:
    """The judge, and what it is in words. Raises UserError where the stage lacks what it needs."""
    scoring: dict[str, Any] = {"threshold": 0.0, "batch_size": options.batch_size, "folder": job.folder}
    if options.kind == "function":
        assert options.function
        by_function = AnswerScorer(models={}, rewards={options.function: 1.0}, name=job.name, **scoring)
        return ByScore(by_function, options.tie), {"function": options.function}
    if options.kind == "reward":
        if "scorer" not in job.inputs:
            raise fail(job.where, "no reward model judges", "Write `inputs: {scorer: $reward}`.")
        by_model = AnswerScorer(models={HELPFUL: job.inputs["scorer"]}, rewards={}, name=job.name, **scoring)
        return ByScore(by_model, options.tie), {"reward": model_identity(job.inputs["scorer"], hashes(job))}
    assert options.prompt
    prompt = JudgePrompt.read(Path(options.prompt))
    who = (options.kind, options.model, options.revision, "judge", options.batch_size)
    spec, record = replying_model(job, *who)
    stored = stored_replies(job, spec, record, prompt, options.reply_tokens, "verdicts")
    return ByWords(stored, prompt), {**record, "prompt": prompt.record()}


# Answers


def _read(
    job: Job, options: JudgeOptions, sides: Sequence[Job]
) -> tuple[list[Prompt], list[dict[str, list[int]]], int]:
    """The prompts, each once; the tokens that ask each model, by prompt; how many prompts are left out."""
    renderers = [Renderer(tokenizer_of(side.model, side.init, side.template)) for side in sides]
    bad, prompts = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS), dict[str, Prompt]()
    ids: list[dict[str, list[int]]] = [{} for _ in sides]
    for source_row in mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad):
        try:
            prompt = prompt_in(source_row)
            tokens = [renderer.prompt(prompt.messages, variables=prompt.variables) for renderer in renderers]
            if options.function:
                AnswerScorer({}, {options.function: 1.0}, 0.0).check(prompt.columns)
            if options.by and options.by not in prompt.columns:
                raise BadRow(f"it has no column '{options.by}', which judge.by names", "Give the row one.")
        except BadRow as bad_row:
            bad.add(source_row.where, source_row.row, bad_row)
            continue
        prompts.setdefault(prompt.key, prompt)
        for ids_of_side, ids_of_prompt in zip(ids, tokens, strict=True):
            ids_of_side[prompt.key] = ids_of_prompt
    bad.finish()
    if not prompts:
        raise fail(job.where, "data holds no prompt", "Name rows with prompts.")
    return list(prompts.values()), ids, bad.count


def _draw_answers(
    side: Job, options: JudgeOptions, prompts: Sequence[Prompt], ids: Mapping[str, list[int]]
) -> Sequence[SampledAnswer]:
    """One model's answers, in a file named by what decides them: another judge does not draw them again."""
    sampling = decoding_of(side).sampling(options.max_new_tokens, options.temperature, options.top_p, side.seed)
    policy = policy_identity(side)
    decided = [policy, side.template, side.blocks.get("quantization"), sampling.record(), options.batch_size]
    file = side.folder / f"answers-{digest(decided)}.jsonl"
    copy_earlier(file)
    origin: dict[str, str | int] = {"policy": policy, "round": 0}
    sampler = Sampler(
        f"{side.name}, {model_name(side)}", WorkerSpec.of(side, options.batch_size), ids, origin, sampling, 1
    )
    answers = sampler.answers(prompts, options.temperature, file)
    long = [one for one in answers if not one.fits]
    if long:
        what = f"its prompt leaves no room for an answer in what {model_name(side)} sees ({len(long)} such rows)"
        raise fail(long[0].sample.prompt.where, what, "Drop the row, or shorten it.")
    return answers


def model_name(side: Job) -> str:
    """A model's name for people."""
    folder = side.init or Path(side.model.path if side.model else "")
    return Result(folder).stage


def _count_unfinished(answers: Sequence[SampledAnswer]) -> int:
    return sum(not answer.ended for answer in answers)


# Verdicts


def _judge_pairs(judge: Judge, pairs: Sequence[AnswerPair]) -> list[JudgedPair]:
    """Pairs that need no judge are not shown to it: the same words are a tie, and no answer loses to any."""
    plain = {place: judged for place, pair in enumerate(pairs) if (judged := _plain(pair))}
    replies = iter(judge.compare([pair for place, pair in enumerate(pairs) if place not in plain]))
    return [plain[place] if place in plain else next(replies) for place in range(len(pairs))]


def _plain(pair: AnswerPair) -> JudgedPair | None:
    answer, other = pair.answer.text, pair.other_answer.text
    if answer == other:
        return JudgedPair(PairOutcome("tie", "same", pair.lengths), {})
    if not answer or not other:
        return JudgedPair(PairOutcome("win" if answer else "loss", "empty", pair.lengths, 1.0), {})
    return None


def preference(pair: AnswerPair, judged: JudgedPair) -> dict[str, Any] | None:
    """A won or lost pair as a row of preferences: `margin` is how sure the judge is."""
    if judged.result.outcome not in ("win", "loss") or judged.result.why == "empty":
        return None
    chosen, rejected = (
        (pair.answer, pair.other_answer) if judged.result.outcome == "win" else (pair.other_answer, pair.answer)
    )
    sides = {"chosen": chosen, "rejected": rejected}
    row = {**pair.answer.prompt.columns, "prompt": list(pair.answer.prompt.messages)}
    row |= {side: one.conversation[-1:] for side, one in sides.items()}
    return {
        **row,
        "margin": judged.result.margin,
        **{f"source_{side}": one.origin["policy"] for side, one in sides.items()},
    }


def _write_verdicts(
    job: Job, judge: Mapping[str, Any], answers: Sequence[Sequence[SampledAnswer]], judged_pairs: Sequence[JudgedPair]
) -> Path:
    lines = []
    for answer, other_answer, judged in zip(*answers, judged_pairs, strict=True):
        prompt = answer.sample.prompt
        line = {**prompt.columns, "prompt": list(prompt.messages)}
        line |= {name: answer.sample.text for name, answer in zip(SIDES, (answer, other_answer), strict=True)}
        line |= {"outcome": judged.result.outcome, "why": judged.result.why, "margin": judged.result.margin}
        lines.append({**line, "judge": judge, **judged.words})
    write_lines(job.folder / artifacts.VERDICTS, lines)
    return job.folder / artifacts.VERDICTS


def show(numbers: Mapping[str, Any]) -> None:
    """What the numbers say, in a few lines, on stderr."""
    console = Terminal(file=sys.stderr)
    model, other = numbers["models"]
    same = f"({numbers['same']} identical answers)"
    tied = f"{numbers['ties']} tied {same}, {numbers['losses']} lost of {numbers['pairs']}"
    console.print(f"{model} against {other}: {numbers['wins']} won, {tied}")
    if "flips" in numbers:
        first_place = (
            ""
            if numbers["first_preferred"] is None
            else f", the first place preferred {numbers['first_preferred']:.0%}"
        )
        console.print(
            f"the judge: {numbers['consistency']:.0%} the same in both orders, {numbers['flips']} flips{first_place}",
        )
    if numbers["unparsed"] or numbers["unscored"]:
        unreadable = f"{numbers['unparsed']} verdicts cannot be read, {numbers['unscored']} pairs cannot be judged"
        console.print(f"{unreadable}; they have no outcome", style="yellow")
    if numbers["longer_wins"] is not None:
        line = f"the longer answer won {numbers['longer_wins']:.0%} of {numbers['longer_pairs']} decided pairs"
        alike = numbers["like_length_win_rate"]
        like_length = (
            ""
            if alike is None
            else f"; win rate {alike:.1%} among {numbers['like_length_pairs']} pairs of similar length"
        )
        console.print(line + like_length)
