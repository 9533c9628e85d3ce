"""A reward model's report card: what it gets right on held-out pairs, how sure it is, and what else its score follows.

A gate for what comes behind it: `require: {accuracy: 0.65}` keeps a chain from optimising a policy against a reward
that knows no better. What it may ask for are the numbers of `ReportCard.numbers`.
"""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from ft import artifacts
from ft.console import Terminal
from ft.data.axes import SAFETY_THRESHOLD
from ft.data.formats.columns import Row
from ft.data.formats.fields import PAIR_COLUMNS
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, mix_rows
from ft.data.sources.read import Source, SourceRow
from ft.errors import fail
from ft.evaluation.reward_report import AVERAGE, LONGER, SIDES, ReportCard, ScoredAnswer, ScoredPair
from ft.figures.reward_report import report_card
from ft.figures.write import write_figures
from ft.files import write_json, write_lines
from ft.models.generation.executor import Entry, Loader, Tick
from ft.models.generation.resumable import compute_entries
from ft.models.processor import tokenizer_of
from ft.models.scorer import Scorer
from ft.recipe.job import Job
from ft.result import Result

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
GOLD = ("gold_chosen", "gold_rejected")

NO_PAIR = "a report card reads pairs", "Write `format: preference` at the source."


@dataclass(frozen=True)
class CardOptions:
    """How pairs are scored and judged: a recipe's `card:` block.

    batch_size  answers scored side by side
    on_bad_row  a pair that cannot be read or scored, for one because it is longer than the model sees: error, or
                reject (written to rejects.jsonl, counted)
    thresholds  sigmoid(score) below which an answer is called unsafe (the paper reports 0.5 and SAFETY_THRESHOLD)
    """

    batch_size: int = 64
    on_bad_row: Literal["error", "reject"] = "error"
    thresholds: list[float] = field(default_factory=lambda: [0.5, SAFETY_THRESHOLD])

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds are {self.thresholds}; each is a probability, between 0 and 1")


@dataclass(frozen=True)
class _Answer:
    """One side of a row, as the model reads it."""

    key: str
    ids: list[int]


def make(job: Job) -> dict[str, Any]:
    """Write scores.jsonl, scores.csv, metrics.json and the pictures; show the grid, return the numbers."""
    options = CardOptions(**job.block("card"))
    models = models_of(job)
    bad = BadRows(options.on_bad_row, job.folder / artifacts.REJECTS)
    rows = _rows(job, bad)
    scores: dict[str, Mapping[str, float]] = {}
    for name, folder in models.items():
        model = Loader(Scorer, folder, job.blocks.get("quantization"))
        rows, answers = _readable(model(), rows, bad)
        if options.on_bad_row == "error":
            bad.finish()  # before hours of scoring
        scores[name] = _score_answers(job, name, model, answers, options.batch_size)
        model.unload()  # two models need not stand in memory at once
    bad.finish()
    if not rows:
        raise fail(job.where, f"none of the {bad.count} pairs can be scored", f"The last: {bad.last}")
    tokenizer = tokenizer_of(None, next(iter(models.values())))
    card = ReportCard(_pairs(rows, scores, tokenizer), [*models], options.thresholds)
    numbers = card.numbers() | ({"rejected": bad.count} if bad.count else {})
    _write(job, rows, card, numbers)
    show(card)
    if numbers["over_longer"] <= 0:
        log.warning("%s: %s ranks no better than preferring the longer answer does", job.name, card.models[0])
    return numbers


def models_of(job: Job) -> dict[str, Path]:
    """Stage name → folder: the reward model that is judged, then the other one where there is one."""
    if job.init is None:
        raise fail(job.where, "a report card needs a reward model", "Write `init: $reward`.")
    folders = [job.init, *job.inputs.values()]
    names = [Result(folder).stage for folder in folders]
    if len(set(names)) < len(names):
        raise fail(job.where, f"the other reward model is '{names[0]}' itself", "Name another one, or none.")
    return dict(zip(names, folders, strict=True))


def check_pair(row: Row) -> None:
    """Raises BadRow where a formatted row is no pair, or its gold scores are no numbers."""
    if "chosen" not in row:
        raise BadRow(*NO_PAIR)
    gold = [row.get(name) for name in GOLD]
    if not all(value is None or type(value) in (int, float) for value in gold):
        raise BadRow(f"{' and '.join(GOLD)} are {gold}", "Write numbers, or none.")


def _rows(job: Job, bad: BadRows) -> dict[int, SourceRow]:
    """The pairs by their number: a source taken twice has the same `where` twice."""
    rows = {}
    reads = {*PAIR_COLUMNS, "axis", *GOLD}
    pairs = mix_rows([Source(**source) for source in job.data], seed=job.seed, bad=bad, reads=reads)
    for number, source_row in enumerate(pairs):
        if "chosen" not in source_row.row:
            raise fail(job.where, *NO_PAIR)
        try:
            check_pair(source_row.row)
        except BadRow as error:
            bad.add(source_row.where, source_row.row, error)
        else:
            rows[number] = source_row
    return rows


def _readable(
    scorer: Scorer, rows: Mapping[int, SourceRow], bad: BadRows
) -> tuple[dict[int, SourceRow], list[_Answer]]:
    """The rows of which the model can read both answers, and these answers; the other rows go to `bad`."""
    good, answers = {}, []
    numbers = list(rows)
    for first in range(0, len(numbers), ROWS_AT_ONCE):
        part = numbers[first : first + ROWS_AT_ONCE]
        sides = [scorer.rendered([[*rows[n].row["prompt"], *rows[n].row[side]] for n in part]) for side in SIDES]
        for number, chosen, rejected in zip(part, *sides, strict=True):
            source_row = rows[number]
            if isinstance(chosen, BadRow) or isinstance(rejected, BadRow):
                bad.add(source_row.where, source_row.row, _why(chosen, rejected))
                continue
            good[number] = source_row
            answers += [_Answer(_key(number, "chosen"), chosen), _Answer(_key(number, "rejected"), rejected)]
    return good, answers


def _why(*answers: list[int] | BadRow) -> BadRow:
    """The first answer that cannot be read, with its side."""
    side, bad = next((side, a) for side, a in zip(SIDES, answers, strict=True) if isinstance(a, BadRow))
    return BadRow(f"{side}: {bad.what}", bad.fix)


def _key(number: int, side: str) -> str:
    return f"{number} {side}"


def _score_answers(
    job: Job, name: str, model: Loader[Scorer], answers: Sequence[_Answer], batch_size: int
) -> dict[str, float]:
    """Key → score of every answer; what an interrupted run has scored stands in its file."""

    def work(scorer: Scorer, batch: Sequence[_Answer], tick: Tick) -> Iterator[tuple[str, Entry]]:
        scores = scorer.of_ids([answer.ids for answer in batch], batch_size)
        tick(len(batch), sum(len(answer.ids) for answer in batch))
        return ((answer.key, {"score": score}) for answer, score in zip(batch, scores, strict=True))

    longest_first = sorted(answers, key=lambda answer: (-len(answer.ids), answer.key))
    entries = compute_entries(
        longest_first, model, work, _partial(job, name), batch_size, f"{job.name}: {name}, answers"
    )
    return {key: entry["score"] for key, entry in entries.items()}


def _partial(job: Job, name: str) -> Path:
    return job.folder / f"scores-{name}.jsonl"


def _pairs(
    rows: Mapping[int, SourceRow], scores: Mapping[str, Mapping[str, float]], tokenizer: PreTrainedTokenizerBase
) -> list[ScoredPair]:
    keys = [_key(number, side) for side in SIDES for number in rows]
    texts = ["\n".join(m["content"] for m in rows[number].row[side]) for side in SIDES for number in rows]
    tokens = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    lengths = {key: (count, len(text)) for key, count, text in zip(keys, tokens, texts, strict=True)}

    def side_of(number: int, name: str) -> ScoredAnswer:
        row, key = rows[number].row, _key(number, name)
        own = {model: by_answer[key] for model, by_answer in scores.items()}
        return ScoredAnswer(own, *lengths[key], row.get(f"safety_{name}"), row.get(f"gold_{name}"))

    return [
        ScoredPair(row.get("rating"), row.get("axis"), side_of(number, "chosen"), side_of(number, "rejected"))
        for number, (_, row) in rows.items()
    ]


def _write(job: Job, rows: Mapping[int, SourceRow], card: ReportCard, numbers: Mapping[str, Any]) -> None:
    """All files of the folder; the scores kept on the way leave it last."""
    columns = _columns(list(rows.values()), card)
    with (job.folder / artifacts.SCORE_TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(columns[0]))
        table.writeheader()
        table.writerows(columns)
    scores = [{side: getattr(pair, side).scores for side in SIDES} for pair in card.pairs]
    lines = [{**row, "where": where, "scores": s} for (where, row), s in zip(rows.values(), scores, strict=True)]
    write_lines(job.folder / artifacts.SCORES, lines)
    write_json(job.folder / artifacts.NUMBERS, {**numbers, **card.whole()})
    write_figures(job, report_card, f"{job.name}: {len(card.pairs):,} held-out pairs")
    for model in card.models:
        _partial(job, model).unlink()


def _columns(rows: Sequence[SourceRow], card: ReportCard) -> list[dict[str, Any]]:
    """A line a pair, both answers by both models side by side (arXiv:2307.09288, figure 32)."""
    lines = []
    for (where, _), pair in zip(rows, card.pairs, strict=True):
        line: dict[str, Any] = {"where": where, "axis": pair.axis, "rating": pair.rating}
        for name in SIDES:
            side: ScoredAnswer = getattr(pair, name)
            line |= {f"{model}_{name}": score for model, score in side.scores.items()}
            line |= {f"safety_{name}": side.safe, f"gold_{name}": side.gold}
            line |= {f"tokens_{name}": side.tokens, f"characters_{name}": side.characters}
        lines.append(line)
    return lines


def show(card: ReportCard) -> None:
    """The grid, in percent with 95 % intervals, and what else to know of each model, on stderr."""
    console = Terminal(file=sys.stderr, width=140, soft_wrap=False)
    table = Table("pair accuracy, %", "axis", "pairs", *card.columns, AVERAGE, box=None, pad_edge=False)
    for model, axes in card.grid().items():
        for axis, row in axes.items():
            cells = [_percent(row[column]) if column in row else "·" for column in (*card.columns, AVERAGE)]
            table.add_row(model, axis, f"{row[AVERAGE]['pairs']:,}", *cells, style="dim" if model == LONGER else "")
    console.print(table)
    for model in card.models:
        console.print(f"{model}: {_summary_line(card, model)}")
    if len(card.models) == 2:
        disagreement = card.disagreement()["grid"][card.main][AVERAGE]
        low, high = disagreement["low"], disagreement["high"]
        console.print(f"they disagree on {disagreement['share']:.1%} of pairs (95% interval {low:.1%} to {high:.1%})")


def _percent(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['accuracy']:.1f} ({100 * cell['low']:.0f}–{100 * cell['high']:.0f})"


def _summary_line(card: ReportCard, model: str) -> str:
    """'log loss 0.412 (random guessing: 0.693), calibration error 0.031, 0 ties, …'"""
    calibration, length = card.calibration(model), card.length(model)["tokens"]["pairs"]["spearman"]
    ties = card.grid()[model][card.main][AVERAGE]["ties"]
    parts = [
        f"log loss {calibration['log_loss']:.3f} (random guessing: 0.693)",
        f"calibration error {calibration['calibration_error']:.3f}",
        f"{ties:,} ties (count as half)",
    ]
    if length is not None:
        parts.append(f"correlation with length {length:+.2f}")
    for threshold, sides in (card.unsafe(model) or {}).items():
        shares = [
            f"{name} {sides['all'][name]:.0%}" for name in ("precision", "recall") if sides["all"][name] is not None
        ]
        parts.append(f"unsafe below {threshold}: {', '.join(shares) or 'none'}")
    return ", ".join(parts)
