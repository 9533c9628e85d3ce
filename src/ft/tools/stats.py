"""What is in rows before anything is trained on them: how many, how long, how graded, what is wrong with which.

The columns are those of the Llama 2 paper's tables of preference data (arXiv:2307.09288, tables 6 and 26). A turn is a
user message and its answer. Lengths are of the text alone, without the words a chat template adds; a pair counts as one
row, whose last answer is as long as its two answers on average. So a row of one turn is as long as prompt and response.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from ft.data.formats import FORMATS, Row
from ft.data.formats.fields import CONVERSATION_COLUMNS, PAIR_COLUMNS, BadRow, Message, UnreadFields
from ft.data.formats.messages import Tie
from ft.data.formats.preferences import RATINGS
from ft.data.mix import format_rows, group_sizes, in_batches, rows_to_take
from ft.data.placeholders import Placeholders
from ft.data.reasons import reason_of
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source
from ft.errors import UserError, fail
from ft.models.processor import tokenizer_of
from ft.recipe import ModelSource
from ft.recipe.types import reference
from ft.results.store import Plan, PlannedStage
from ft.secret_files import RowWatch
from ft.tools.new import parse_columns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
REASONS = 12  # told apart; the others are counted together
MEANS = ("turns", "example", "prompt", "response")
_SAFE = {True: "safe", False: "unsafe"}
Lengths = Callable[[list[str]], list[int]]
Tick = Callable[[int], None]


@dataclass
class Mean:
    """A sum and how many it is of."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Sequence[float]) -> None:
        self.total += sum(values)
        self.count += len(values)

    def join(self, other: Mean) -> None:
        self.total += other.total
        self.count += other.count

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class SourceStats:
    """What one source holds, or all sources of a stage; `taken` is how many rows its cap and weight leave."""

    name: str
    rows: int = 0
    taken: int = 0
    means: dict[str, Mean] = field(default_factory=lambda: {name: Mean() for name in MEANS})
    ratings: Counter[int] = field(default_factory=Counter)
    axes: Counter[str] = field(default_factory=Counter)
    safety: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    ties: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    secrets: RowWatch = field(default_factory=RowWatch)
    unread: UnreadFields = field(default_factory=lambda: UnreadFields(CONVERSATION_COLUMNS | PAIR_COLUMNS | {"axis"}))

    placeholders: Placeholders = field(default_factory=Placeholders)

    def refuse(self, where: str, row: object, bad: BadRow) -> None:
        """A `Report` that counts ties, and other faults by what they are, whatever number stands in them."""
        if isinstance(bad, Tie):
            self.ties += 1
            return
        reason = reason_of(bad)
        self.broken[reason if reason in self.broken or len(self.broken) < REASONS else "other reasons"] += 1

    def add(self, row: Row, lengths: Iterator[int]) -> None:
        self.rows += 1
        for name, values in _measure(row, lengths).items():
            self.means[name].add(values)
        if "rating" in row:
            self.ratings[row["rating"]] += 1
        if "axis" in row:
            self.axes[row["axis"]] += 1
        if "safety_chosen" in row and "safety_rejected" in row:
            self.safety[row["safety_chosen"], row["safety_rejected"]] += 1

    def join(self, other: SourceStats) -> None:
        self.rows += other.rows
        self.taken += other.taken
        self.ties += other.ties
        for name, mean in self.means.items():
            mean.join(other.means[name])
        for own_counter, other_counter in zip(self.counters, other.counters, strict=True):
            own_counter.update(other_counter)

    @property
    def counters(self) -> tuple[Counter[Any], ...]:
        return self.ratings, self.axes, self.safety, self.broken


@dataclass(frozen=True)
class Stats:
    """The sources of one stage's data (or one file); `unit` is what lengths are counted in, tokens or words."""

    title: str
    unit: str
    sources: list[SourceStats]
    mixture: dict[str, tuple[int, int]]

    @property
    def whole(self) -> SourceStats:
        whole = SourceStats("all")
        for source in self.sources:
            whole.join(source)
        return whole


# Counting


def count_rows(sources: Sequence[Source], title: str, tokenizer: PreTrainedTokenizerBase | None, tick: Tick) -> Stats:
    """Every row of every source read and measured; without a tokenizer lengths are in words."""
    lengths = _tokens(tokenizer) if tokenizer else _words
    stats = [_count_source(source, lengths, tick) for source in sources]
    shares = any(source.share is not None for source in sources)
    mixture = group_sizes(sources, [one.taken for one in stats]) if shares else {}
    return Stats(title, "tokens" if tokenizer else "words", stats, mixture)


def _count_source(source: Source, lengths: Lengths, tick: Tick) -> SourceStats:
    stats = SourceStats(source.path)
    rows = format_rows(source, stats.refuse)
    for batch in in_batches(rows, BATCH):
        _add(stats, batch, lengths)
        tick(len(batch))
    stats.taken = rows_to_take(source, stats.rows)
    return stats


def _add(stats: SourceStats, batch: Sequence[SourceRow], lengths: Lengths) -> None:
    """All texts of a batch are measured in one call."""
    lengths_in_order = iter(lengths([text for _, row in batch for text in _texts(row)]))
    for where, row in batch:
        stats.secrets.add(where, row)
        stats.unread.add(row)
        stats.placeholders.add(row)
        stats.add(row, lengths_in_order)


def _tokens(tokenizer: PreTrainedTokenizerBase) -> Lengths:
    def lengths(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    return lengths


def _words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def _sides(row: Row) -> tuple[list[Message], list[list[Message]]]:
    """The dialogue before the last answer, and the last answers: two of a pair, one, or none."""
    if "messages" in row:
        return row["messages"], []
    return row["prompt"], [row[name] for name in ("completion", "chosen", "rejected") if name in row]


def _texts(row: Row) -> list[str]:
    if "text" in row:
        return [row["text"]]
    before, answers = _sides(row)
    return [message["content"] for messages in (before, *answers) for message in messages]


def _measure(row: Row, lengths: Iterator[int]) -> dict[str, list[float]]:
    """What a row adds to each mean; takes from `lengths` what belongs to its texts."""
    if "text" in row:
        return {"example": [next(lengths)]}
    before, answers = _sides(row)
    messages_with_lengths = [(message["role"], next(lengths)) for message in before]
    last = [sum(next(lengths) for _ in answer) for answer in answers]
    questions: list[float] = [length for role, length in messages_with_lengths if role == "user"]
    responses: list[float] = [length for role, length in messages_with_lengths if role == "assistant"]
    if last:
        responses.append(sum(last) / len(last))
    other_tokens = sum(length for role, length in messages_with_lengths if role not in ("user", "assistant"))
    return {
        "turns": [len(questions)],
        "example": [sum(questions) + sum(responses) + other_tokens],
        "prompt": questions,
        "response": responses,
    }


# Where rows come from


def file_source(path: str, name: str | None, columns: Sequence[str]) -> Source:
    """Rows named on the command line. Raises UserError where the format is unknown."""
    if name is not None and name not in FORMATS:
        raise fail("--format", f"no format '{name}'", f"There are: {', '.join(FORMATS)}.")
    return Source(path, format=name, columns=parse_columns(columns))


def file_stats(source: Source, model: str | None, tick: Tick) -> Stats:
    tokenizer = tokenizer_of(ModelSource(model), None, None) if model else None
    return count_rows([source], source.path, tokenizer, tick)


def recipe_stats(plan: Plan, stage: str | None, tick: Tick, note: Callable[[str], None]) -> list[Stats]:
    """The data of one stage, or of each that reads any; one whose rows are not made yet is told of and left out."""
    chosen = [plan.stage(stage)] if stage else [planned for planned in plan.stages if planned.stage.data]
    if not chosen or not chosen[0].stage.data:
        raise fail(chosen[0].stage.where if chosen else str(plan.recipe.file), "there is no data to count")
    stats = []
    for planned in chosen:
        absent = _absent(plan, planned)
        if absent:
            what = f"the rows of '{planned.name}' come from '{absent}', which is not made"
            fix = f"Make it: ft run {plan.recipe.argument} --to {absent}"
            if stage:
                raise fail(planned.stage.where, what, fix)
            note(f"{what}. {fix}")
            continue
        tokenizer = _tokenizer(plan, planned, note)
        parts: tuple[Literal["data"], Literal["eval_data"]] = ("data", "eval_data")
        for part in parts:
            if sources := plan.sources(planned, part):
                stats.append(count_rows(sources, f"{planned.name}.{part}", tokenizer, tick))
    return stats


def _absent(plan: Plan, planned: PlannedStage) -> str | None:
    sources = (*planned.stage.data, *planned.stage.eval_data)
    names = [name for source in sources if (name := reference(source["path"]))]
    return next((name for name in names if not plan.stage(name).done), None)


def _tokenizer(plan: Plan, planned: PlannedStage, note: Callable[[str], None]) -> Any | None:
    try:
        return tokenizer_of(
            plan.recipe.model_of(planned.stage), plan.tokenizer_folder(planned), plan.recipe.chat_template
        )
    except UserError as error:
        note(f"{planned.name}: lengths are in words, because there is no tokenizer: {error}")
        return None


# Showing


def stats_as_json(stats: Stats) -> dict[str, Any]:
    return {
        "title": stats.title,
        "unit": stats.unit,
        "sources": [_values(source) for source in stats.sources],
        "all": _values(stats.whole),
        "mixture": {group: {"taken": taken, "of": available} for group, (taken, available) in stats.mixture.items()},
    }


def _values(one: SourceStats) -> dict[str, Any]:
    means = {name: None if mean.value is None else round(mean.value, 2) for name, mean in one.means.items()}
    return {
        "name": one.name,
        "rows": one.rows,
        "taken": one.taken,
        **means,
        "ratings": {str(rating): count for rating, count in sorted(one.ratings.items())},
        "axes": dict(sorted(one.axes.items())),
        "safety": {f"{_SAFE[chosen]}/{_SAFE[rejected]}": n for (chosen, rejected), n in one.safety.most_common()},
        "ties": one.ties,
        "broken": dict(one.broken.most_common()),
        "unread": dict(one.unread.counts.most_common()),
        "placeholders": dict(one.placeholders.counts.most_common()),
        "secrets": one.secrets.notes,
    }


def show_stats(stats: Stats, console: Console) -> None:
    """The table of the paper, then shares of grades and what is wrong, for each source that has any."""
    sources = [*stats.sources, *([stats.whole] if len(stats.sources) > 1 else [])]
    console.print(f"{stats.title}, lengths in {stats.unit}", style="bold")
    console.print(_table(sources, stats.unit))
    for name, rows in _shares(sources):
        console.print(f"  {name}: {rows}")
    for group, (taken, available) in stats.mixture.items():
        share = taken / sum(part for part, _ in stats.mixture.values())
        console.print(f"  group {group}: {taken:,} of {available:,} rows, {share:.1%} of the mixture")
    for one in stats.sources:
        for reason, count in one.broken.most_common():
            console.print(f"  {one.name}: {count:,} broken: {reason}", style="yellow")
        notes = (*one.unread.notes, *one.placeholders.notes)
        for note in (*(f"{one.name}: {note}" for note in notes), *one.secrets.notes):
            console.print(f"  {note}", style="yellow")


def _table(sources: Sequence[SourceStats], unit: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("source", overflow="fold")
    heads = ("rows", "taken", "turns", f"{unit}/example", f"{unit}/prompt", f"{unit}/response", "ties", "broken")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in sources:
        means = ["·" if mean.value is None else f"{mean.value:,.1f}" for mean in one.means.values()]
        faults = [f"{count:,}" if count else "·" for count in (one.ties, one.broken.total())]
        table.add_row(one.name, f"{one.rows:,}", f"{one.taken:,}", *means, *faults)
    return table


def _shares(sources: Sequence[SourceStats]) -> Iterator[tuple[str, str]]:
    for one in sources:
        ratings = {RATINGS[rating - 1]: count for rating, count in sorted(one.ratings.items())}
        safety = {f"{_SAFE[chosen]} over {_SAFE[other]}": n for (chosen, other), n in one.safety.most_common()}
        for what, counts in (("rating", ratings), ("axis", dict(one.axes)), ("safety", safety)):
            if counts:
                shares = ", ".join(f"{name} {count / one.rows:.0%}" for name, count in counts.items())
                unknown = one.rows - sum(counts.values())
                yield f"{one.name}, {what}", shares + (f", none given {unknown / one.rows:.0%}" if unknown else "")
