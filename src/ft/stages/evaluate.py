"""Held-out rows: how likely a model finds their answers, and how good its own are, before and after.

Loss is in evaluation/held_out_loss.py, metrics of texts in evaluation/text_metrics.py, of tool calls in
evaluation/tool_calls.py, functions that judge by code in rewards.py.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from ft import artifacts
from ft.data.formats.fields import CALLS, CONVERSATION_COLUMNS, Row
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.prompts import Prompt, prompt_in
from ft.data.sources.read import Source, SourceRow
from ft.encode.conversation import Renderer
from ft.encode.prepare import RowOptions
from ft.encode.tool_calls import CallReader
from ft.errors import fail
from ft.evaluation.held_out_loss import Losses, held_out_rows
from ft.evaluation.statistics import of_shares
from ft.evaluation.text_metrics import METRICS
from ft.evaluation.tool_calls import CALL_METRICS
from ft.figures.evaluation import evaluation
from ft.figures.write import write_figures
from ft.files import write_json, write_lines
from ft.models.generation.backends import WorkerSpec
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.decoding import decoding_of, with_decoding
from ft.models.generation.dialogue import Dialogue, Turn, answer_dialogues
from ft.models.generation.executor import Loader
from ft.models.generation.sampler import SampledAnswer, Sampler
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of
from ft.recipe.job import Job
from ft.rewards import REWARDS, check_columns, columns_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and how answers are made: a recipe's `evaluate:` block.

    reward          a function of ft.rewards that judges answers; where nothing else is asked for: answer. A recipe runs
                    no code of its own
    metrics         several measures of answers, in the place of `reward`: functions of ft.rewards, metrics of texts
                    (ft.evaluation.text_metrics: exact_match, rouge1, rouge2, rougeL, rougeLsum, bleu, cider,
                    vqa_accuracy), and of tool calls, against those of the row's own answer (ft.evaluation.tool_calls)
    references      column with what texts are compared with: a text, or several. A row without it that brings an answer
                    is compared with that
    loss            also measure the loss on rows that bring answers, by the `rows:` block as in training
    by_position     tokens of a stretch: also the loss of each such stretch of the rows, a decoder's, by where it begins
    max_length      longest row whose loss is measured, in tokens; null: what the model sees
    max_new_tokens  longest answer, in tokens
    temperature     0 answers greedily
    batch_size      prompts answered, or rows measured, side by side
    baseline        also measure the recipe's model (or the input `baseline`), to show what was learnt
    kl              also estimate how far the model is from the baseline: KL(model || baseline) in nats an answer
    by              column whose values the first measure is split by
    dialogue        user turns of a sample dialogue, answered one after the other and shown at the end
    """

    reward: str | None = None
    metrics: list[str] = field(default_factory=list)
    references: str = "answer"
    loss: bool = False
    by_position: int | None = None
    max_length: int | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    batch_size: int = 64
    baseline: bool = True
    kl: bool = False
    by: str | None = None
    dialogue: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.reward is not None and self.reward not in REWARDS:
            raise ValueError(f"there is no reward '{self.reward}'; there are: {', '.join(REWARDS)}")
        if self.reward is not None and self.metrics:
            raise ValueError("metrics and reward are both written; name the reward among the metrics")
        for name in self.metrics:
            if name not in MEASURES:
                raise ValueError(f"metrics: there is no metric '{name}'; there are: {', '.join(MEASURES)}")
        for name in ("by_position", "max_length", "max_new_tokens", "batch_size"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def measures(self) -> list[str]:
        """What judges answers; nothing where only the loss is asked for."""
        if self.reward or self.metrics:
            return [self.reward] if self.reward else list(dict.fromkeys(self.metrics))
        return [] if self.loss else ["answer"]

    @property
    def calls(self) -> bool:
        """Whether tool calls are measured."""
        return any(name in CALL_METRICS for name in self.measures)


@dataclass(frozen=True)
class MeasuredRowOptions(RowOptions):
    """The `rows:` block of rows whose loss is measured: each is whole, so that its loss is one number."""

    on_too_long: Literal["error", "drop", "drop_turns"] = "error"


MEASURES = (*REWARDS, *METRICS, *CALL_METRICS)
AFTER, BEFORE = "model", "baseline"
PREFIX = {AFTER: "", BEFORE: "baseline_"}


def make(job: Job) -> dict[str, Any]:
    """Write metrics.json, and by what is asked for answers.jsonl, losses.jsonl, dialogue.json and pictures."""
    options = with_decoding(EvaluateOptions(**job.block("evaluate")), job)
    rows_as = MeasuredRowOptions(**job.block("rows"))
    sides = {AFTER: job}
    if options.baseline:
        sides[BEFORE] = replace(job, init=job.inputs.get("baseline"))
    bad = BadRows(rows_as.on_bad_row, job.folder / artifacts.REJECTS)
    sources, reads = [Source(**s) for s in job.data], _columns_read(options)
    rows = held_out_rows(list(mix_rows(sources, seed=job.seed, bad=bad, reads=reads)), rows_as, job.seed)
    questions = _read_questions(job, options, rows, bad)
    losses = None
    if options.loss:
        answered = [question for question in rows if not _is_prompt(question)]
        losses = Losses(job, answered, rows_as, bad, options.max_length, options.batch_size, options.by_position)
    scores = _evaluate_answers(sides, options, questions, bad) if options.measures else {}
    if losses:
        for name, side in sides.items():
            model = _chat_model(side)
            losses.of(name, model)
            model.unload()
        scores |= losses.numbers({name: PREFIX[name] for name in sides})
        losses.write()
    bad.finish()
    if bad.count:
        scores["rejected"] = bad.count
    if options.kl:
        scores |= _estimate_kl(sides[AFTER], job.inputs.get("baseline"), questions, options)
    if options.dialogue:
        write_json(job.folder / artifacts.DIALOGUE, _sample_dialogue(job, options))
    write_json(job.folder / artifacts.NUMBERS, scores)
    write_figures(job, evaluation)
    return scores


# Rows


@dataclass(frozen=True)
class _Question:
    """A row to answer; `references` is what texts are compared with, empty where no metric of texts is asked for;
    `calls` are those of the row's own answer."""

    row: SourceRow
    prompt: Prompt
    references: tuple[str, ...]
    calls: Sequence[Row] = ()


def _columns_read(options: EvaluateOptions) -> set[str]:
    of_rewards = {column for name in options.measures if name in REWARDS for column in columns_of(name)}
    return {*CONVERSATION_COLUMNS, *of_rewards, options.references, *([options.by] if options.by else [])}


def _is_prompt(source_row: SourceRow) -> bool:
    return "prompt" in source_row.row and "completion" not in source_row.row


def _read_questions(job: Job, options: EvaluateOptions, rows: Sequence[SourceRow], bad: BadRows) -> list[_Question]:
    """The prompts among the rows; where there are none, what stands before the rows' own answers."""
    if not options.measures and not options.kl:
        return []
    chosen = [source_row for source_row in rows if _is_prompt(source_row)] or [
        source_row for source_row in rows if "text" not in source_row.row
    ]
    if not chosen or (not options.metrics and not options.loss and "prompt" not in chosen[0].row):
        raise fail(job.where, "evaluation rows are prompts", "Write `format: prompt` at the source.")
    questions = []
    for source_row in chosen:
        try:
            prompt = prompt_in(source_row, with_tools=True)
            references, calls = _references(options, source_row, prompt), _wanted_calls(options, source_row)
            questions.append(_Question(source_row, prompt, references, calls))
        except BadRow as bad_row:
            bad.add(*source_row, bad_row)
    if bad.on_bad_row == "error":
        bad.finish()
    if not questions:
        raise fail(job.where, f"none of the {len(chosen)} rows can be asked", f"The last: {bad.last}")
    return questions


def _references(options: EvaluateOptions, source_row: SourceRow, prompt: Prompt) -> tuple[str, ...]:
    """Raises BadRow where a measure lacks what it reads."""
    check_columns([name for name in options.measures if name in REWARDS], prompt.columns)
    if not any(name in METRICS for name in options.measures):
        return ()
    texts = prompt.columns.get(options.references)
    if texts is None and not _is_prompt(source_row):
        texts = (source_row.row.get("completion") or source_row.row["messages"])[-1]["content"]
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        fix = "Name the column with `references:`, a text or several a row."
        raise BadRow(f"the column '{options.references}' holds no reference text", fix)
    return tuple(texts)


def _wanted_calls(options: EvaluateOptions, source_row: SourceRow) -> Sequence[Row]:
    """Raises BadRow where calls are measured and the row has no answer to compare them with."""
    if not options.calls:
        return ()
    if _is_prompt(source_row):
        raise BadRow("the row has no answer to compare tool calls with", "Give it `messages` that end with one.")
    answer = (source_row.row.get("completion") or source_row.row["messages"])[-1]
    calls: Sequence[Row] = answer.get(CALLS, ())
    return calls


# Answers


@dataclass(frozen=True)
class _Answer:
    """An answer and what is measured of it; `calls` are None where it begins one that cannot be read."""

    sampled: SampledAnswer
    text: str
    calls: Sequence[Row] | None = ()


@dataclass(frozen=True)
class _Evaluated:
    """The answers of one model, the values of each by every measure, and the numbers of them all."""

    answers: list[_Answer]
    each: Mapping[str, Sequence[float | None]]
    numbers: Mapping[str, float]


def _evaluate_answers(
    sides: Mapping[str, Job], options: EvaluateOptions, questions: Sequence[_Question], bad: BadRows
) -> dict[str, Any]:
    """Draw, measure and write the answers of every side."""
    job = sides[AFTER]
    renderers = {n: Renderer(tokenizer_of(side.model, side.init, side.template)) for n, side in sides.items()}
    prompts = {name: _prompts(renderer, questions) for name, renderer in renderers.items()}
    readers = {name: _CallsOf(renderer) if options.calls else None for name, renderer in renderers.items()}
    evaluated = {
        name: _evaluate_side(name, side, prompts[name], readers[name], options, questions)
        for name, side in sides.items()
    }
    scores: dict[str, Any] = {
        f"{PREFIX[name]}{key}": value for name, of_model in evaluated.items() for key, value in of_model.numbers.items()
    }
    _write_answers(job.folder / artifacts.ANSWERS, questions, evaluated, options.measures)
    if options.by:
        scores["by"] = _by_column(options, questions, evaluated, job)
    for name in sides:
        _answers_file(job, name).unlink()
    return scores


def _prompt_ids(renderer: Renderer, question: _Question) -> list[int]:
    return renderer.prompt(question.prompt.messages, question.prompt.tools, question.prompt.variables)


def _prompts(renderer: Renderer, questions: Sequence[_Question]) -> dict[str, list[int]]:
    """Prompt key → its tokens. Raises UserError where the model cannot be asked one of them."""
    ids, refused = {}, BadRows("error")
    for question in questions:
        try:
            ids[question.prompt.key] = _prompt_ids(renderer, question)
        except BadRow as error:
            refused.add(*question.row, error)
    refused.finish()
    return ids


class _CallsOf:
    """Reads the calls in answers of one model; an answer with one that cannot be read has none, not even no calls."""

    def __init__(self, renderer: Renderer):
        self.tokenizer, self.reader = renderer.tokenizer, CallReader(renderer.chat)

    def __call__(self, sampled: SampledAnswer, prompt: Prompt, prompt_ids: list[int]) -> _Answer:
        text = sampled.sample.text
        try:
            content, calls = self.reader.read(str(self.tokenizer.decode(prompt_ids)), text, prompt.tools)
        except BadRow:
            return _Answer(sampled, text, None)
        return _Answer(sampled, content, calls)


def _answers_file(job: Job, name: str) -> Path:
    return job.folder / f"answers-{name}.jsonl"


def _evaluate_side(
    name: str,
    side: Job,
    ids: Mapping[str, list[int]],
    calls_of: _CallsOf | None,
    options: EvaluateOptions,
    questions: Sequence[_Question],
) -> _Evaluated:
    sampling = _sampling(side, options)
    origin: dict[str, str | int] = {"policy": name, "round": 0}
    spec = replace(WorkerSpec.of(side, options.batch_size), special_tokens=options.calls)
    sampler = Sampler(f"{side.name}, {name}", spec, ids, origin, sampling, 1)
    prompts_by_key = {question.prompt.key: question.prompt for question in questions}
    sampled = sampler.answers(list(prompts_by_key.values()), options.temperature, _answers_file(side, name))
    long = [question for question in sampled if not question.fits]
    if long:
        what = f"its prompt leaves no room for an answer in what the model sees ({len(long)} such rows)"
        raise fail(long[0].sample.prompt.where, what, "Drop the row, or shorten it.")
    by_key = {
        one.sample.prompt.key: calls_of(one, one.sample.prompt, ids[one.sample.prompt.key])
        if calls_of
        else _Answer(one, one.sample.text)
        for one in sampled
    }
    answers = [by_key[question.prompt.key] for question in questions]
    by_measure = {measure: _measure_values(measure, answers, questions, side) for measure in options.measures}
    numbers = {f"{n}{end}": value[key] for n, value in by_measure.items() for end, key in ENDS.items() if value}
    for counted, number in (
        ("unfinished", sum(not answer.sampled.ended for answer in answers)),
        ("unreadable_calls", sum(answer.calls is None for answer in answers)),
    ):
        numbers |= {counted: number} if number else {}
    return _Evaluated(answers, {measure: value["each"] for measure, value in by_measure.items() if value}, numbers)


ENDS = {"": "value", "_low": "low", "_high": "high"}


def _measure_values(
    measure: str, answers: Sequence[_Answer], questions: Sequence[_Question], job: Job
) -> dict[str, Any]:
    """value, low, high (95 %) and each, by a function or a metric of texts or calls; empty where no row counts."""
    if measure in CALL_METRICS:
        values = [CALL_METRICS[measure](one.calls, row.calls) for one, row in zip(answers, questions, strict=True)]
        return _mean_of_rows(values, job.seed)
    texts = [answer.text for answer in answers]
    if measure in METRICS:
        from ft.evaluation.text_metric_modules import TextMetric

        columns = {"predictions": texts, "references": [list(question.references) for question in questions]}
        computed: dict[str, Any] = TextMetric(measure, job.seed).compute(**columns)
        return computed
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    names = dict.fromkeys(name for question in questions for name in question.prompt.columns)
    columns = {name: [question.prompt.columns.get(name) for question in questions] for name in names}
    each = REWARDS[measure]([list(question.prompt.messages) for question in questions], completions, **columns)
    return _mean_of_rows(each, job.seed)


def _mean_of_rows(each: Sequence[float | None], seed: int) -> dict[str, Any]:
    """Over the rows that a measure says something about."""
    counted = [value for value in each if value is not None]
    if not counted:
        return {}
    low, high = of_shares(counted, seed)
    return {"value": sum(counted) / len(counted), "low": low, "high": high, "each": each}


def _by_column(
    options: EvaluateOptions, questions: Sequence[_Question], evaluated: Mapping[str, _Evaluated], job: Job
) -> dict[str, dict[str, float]]:
    """The first measure per value of the column `by`."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        groups[str(question.prompt.columns.get(options.by or ""))].append(place)
    first = options.measures[0]

    def values(places: list[int]) -> dict[str, Any]:
        answers = [evaluated[AFTER].answers[place] for place in places]
        return _measure_values(first, answers, [questions[place] for place in places], job)

    now = {name: values(places) for name, places in groups.items()}
    return {name: {"rows": len(groups[name]), "score": float(now[name]["value"])} for name in now if now[name]}


def _write_answers(
    path: Path, questions: Sequence[_Question], evaluated: Mapping[str, _Evaluated], measures: Sequence[str]
) -> None:
    lines = []
    for place, question in enumerate(questions):
        line = dict(question.row.row)
        for name, of_model in evaluated.items():
            answer, values = of_model.answers[place], {key: each[place] for key, each in of_model.each.items()}
            text, score = answer.sampled.sample.text, values.get(measures[0])
            line |= {f"{PREFIX[name]}completion": text, f"{PREFIX[name]}score": score}
            line |= {f"{PREFIX[name]}scores": values} if len(measures) > 1 else {}
            line |= {} if answer.sampled.ended else {f"{PREFIX[name]}unfinished": True}
        lines.append(line)
    write_lines(path, lines)


# Distance and dialogue


def _chat_model(side: Job) -> Loader[ChatModel]:
    return Loader(ChatModel, side.model, side.init, side.template, side.blocks.get("quantization"))


def _sampling(job: Job, options: EvaluateOptions) -> Sampling:
    return decoding_of(job).sampling(options.max_new_tokens, options.temperature, seed=job.seed)


def _estimate_kl(
    job: Job, baseline: Path | None, questions: Sequence[_Question], options: EvaluateOptions
) -> dict[str, float]:
    """KL(model || baseline) in nats an answer, and its standard error: the mean log-ratio of the model's own answers.

    They are drawn at temperature 1 whatever the judged ones are, because only the model's own distribution gives this
    mean its meaning. An answer ends with its end-of-turn token or at max_new_tokens.
    """
    chat_model = _chat_model(job)()
    prompts = [_prompt_ids(chat_model.renderer, one) for one in questions]
    sampling = Sampling(options.max_new_tokens, temperature=1.0, seed=job.seed)
    completions = [question.completion_ids for question in chat_model.complete(prompts, sampling, options.batch_size)]
    own_logprobs = chat_model.completion_logprobs(prompts, completions, options.batch_size)
    del chat_model  # two models need not stand in memory at once
    baseline_logprobs = _chat_model(replace(job, init=baseline))().completion_logprobs(
        prompts, completions, options.batch_size
    )
    ratios = [a - b for a, b in zip(own_logprobs, baseline_logprobs, strict=True)]
    error = {"kl_error": stdev(ratios) / math.sqrt(len(ratios))} if len(ratios) > 1 else {}
    return {"kl": mean(ratios), **error}


def _sample_dialogue(job: Job, options: EvaluateOptions) -> list[dict[str, str]]:
    """The sample dialogue, each answer seeing those before it; as far as it fits into the model."""
    chat_model = _chat_model(job)()
    dialogues = [Dialogue("sample dialogue", [Turn(text) for text in options.dialogue])]
    (transcript,) = answer_dialogues(chat_model.engine, chat_model.renderer, dialogues, _sampling(job, options))
    if transcript.stopped:
        log.warning("%s: the sample dialogue ends early at %s", job.name, transcript.stopped)
    messages: list[dict[str, str]] = []
    for text, answer in zip(options.dialogue, transcript.answers, strict=False):
        assert answer is not None  # every turn is asked
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.text}]
    return messages
