"""Held-out loss: how surprised a model is by answers it did not write, rendered and masked as in training."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.bounds import is_finite
from ft.data.formats.messages import BadRow
from ft.data.mix import BadRows, eval_side
from ft.data.sources.read import SourceRow
from ft.encode.encoder import EncodedRow, encoded_rows, row_tokens
from ft.encode.prepare import RowOptions
from ft.errors import fail
from ft.evaluation.statistics import bootstrap
from ft.files import write_lines
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.executor import Entry, Loader, Tick
from ft.models.generation.resumable import compute_entries
from ft.recipe.job import Job

LARGEST_EXPONENT = 700  # nats a token whose perplexity a float still holds


@dataclass(frozen=True)
class Loss:
    """What one row costs a model: `nats` over its supervised `tokens`, which spell `size` bytes of text (UTF-8)."""

    nats: float
    tokens: int
    size: int


@dataclass(frozen=True)
class _Item:
    key: str
    row: EncodedRow
    where: str

    @property
    def number(self) -> int:
        """Of the row that it is, or is a part of."""
        return int(self.key.partition(".")[0])


def _key(number: int, part: int) -> str:
    return f"{number}.{part}" if part else str(number)


def held_out_rows(rows: Sequence[SourceRow], options: RowOptions, seed: int) -> list[SourceRow]:
    """The rows a training stage with this `eval_fraction` and seed holds out; all of them where it is 0."""
    if not options.eval_fraction:
        return list(rows)
    return [source_row for source_row in rows if eval_side(source_row.row, options.eval_fraction, seed)]


class Losses:
    """Losses of rows by the models that are compared; only rows that every one of them can read count."""

    def __init__(
        self,
        job: Job,
        rows: Sequence[SourceRow],
        options: RowOptions,
        bad: BadRows,
        longest: int | None,
        batch_size: int,
        by_position: int | None = None,
    ):
        self.job, self.rows, self.options, self.bad = job, rows, options, bad
        self.longest, self.batch_size, self.by_position = longest, batch_size, by_position
        self.at_positions: dict[str, dict[int, tuple[float, int]]] = {}
        self.refused: set[int] = set()
        self.losses: dict[str, dict[int, Loss]] = {}

    def of(self, name: str, model: Loader[ChatModel]) -> None:
        """Measure one model; what an interrupted run has measured stands in a file."""
        encoded, tokenizer = self._encode(model()), model().tokenizer
        items = [
            _Item(_key(number, n), part, self.rows[number].where)
            for number, parts in encoded.items()
            for n, part in enumerate(parts)
        ]
        items.sort(key=lambda item: (-len(item.row["input_ids"]), item.number))

        batch_size, stretch = self.batch_size, self.by_position

        def work(chat_model: ChatModel, batch: Sequence[_Item], tick: Tick) -> Iterator[tuple[str, Entry]]:
            rows = [item.row for item in batch]
            by_token = chat_model.token_logprobs(rows, batch_size) if stretch else []
            logprobs = [sum(row) for row in by_token] or chat_model.row_logprobs(rows, batch_size)
            for item, value in zip(batch, logprobs, strict=True):
                if not is_finite(value):
                    fix = "Activations overflow: measure it in another precision, or drop the row."
                    raise fail(item.where, f"the loss of this row by {name} is {-value}", fix)
            tick(len(batch), sum(len(item.row["input_ids"]) for item in batch))
            pairs = zip(rows, by_token, strict=True) if stretch else ()
            parts = [_in_parts(row, values, stretch or 0) for row, values in pairs] or [{}] * len(batch)
            return (
                (item.key, {"nats": -value, **({"parts": part} if part else {})})
                for item, value, part in zip(batch, logprobs, parts, strict=True)
            )

        entries = compute_entries(items, model, work, self._partial(name), batch_size, f"{self.job.name}: {name}, rows")
        self.losses[name] = {
            number: Loss(
                sum(entries[_key(number, n)]["nats"] for n in range(len(parts))),
                sum(map(_count_trained, parts)),
                sum(_count_bytes(part, tokenizer) for part in parts),
            )
            for number, parts in encoded.items()
        }
        if self.by_position:
            self.at_positions[name] = _sum_parts(entry["parts"] for entry in entries.values())

    def numbers(self, prefixes: Mapping[str, str]) -> dict[str, Any]:
        """Loss (nats a supervised token) with its interval over rows, perplexity and bits per byte of each model."""
        places = self._readable_by_all()
        numbers: dict[str, Any] = {}
        for name, prefix in prefixes.items():
            table = [(loss.nats, loss.tokens, loss.size) for loss in (self.losses[name][place] for place in places)]
            nats, tokens, size = (math.fsum(column) for column in zip(*table, strict=True))
            low, high = bootstrap(table, _per_token, self.job.seed)
            perplexity = math.exp(nats / tokens) if nats / tokens < LARGEST_EXPONENT else None
            numbers |= {f"{prefix}eval_loss": nats / tokens, f"{prefix}perplexity": perplexity}
            numbers |= {f"{prefix}eval_loss_low": low, f"{prefix}eval_loss_high": high}
            numbers |= {f"{prefix}bits_per_byte": nats / math.log(2) / size if size else None}
            numbers |= {f"{prefix}eval_tokens": int(tokens)}
        return {**numbers, "eval_rows": len(places), "eval_rows_left_out": len(self.rows) - len(places)}

    def write(self) -> None:
        """losses.jsonl, a line a row; what was kept on the way leaves the folder."""
        names, places = list(self.losses), self._readable_by_all()
        losses = [
            {name: {"nats": item.nats, "tokens": item.tokens} for name, item in self._of(place).items()}
            for place in places
        ]
        if self.at_positions:
            _write_positions(self.job.folder / artifacts.POSITION_TABLE, self.at_positions)
        lines = [{"where": self.rows[place].where, **loss} for place, loss in zip(places, losses, strict=True)]
        write_lines(self.job.folder / artifacts.LOSSES, lines)
        for name in names:
            self._partial(name).unlink()

    def _of(self, place: int) -> dict[str, Loss]:
        return {name: losses[place] for name, losses in self.losses.items()}

    def _readable_by_all(self) -> list[int]:
        places = sorted(set.intersection(*(set(losses) for losses in self.losses.values())))
        if not places:
            what = f"no row is left to measure the loss of: {len(self.refused)} refused, the others too long"
            raise fail(self.job.where, what, "Look at data and max_length.")
        return places

    def _encode(self, chat_model: ChatModel) -> dict[int, list[EncodedRow]]:
        """What can be read of each row: itself, or the parts that its family takes it apart into."""
        longest = min((limit for limit in (self.longest, chat_model.positions) if limit), default=None)
        train_on, on_too_long = self.options.train_on, self.options.on_too_long
        encoder = chat_model.family.row_encoder(chat_model.tokenizer, train_on, longest, on_too_long)
        good = {}
        for number, row in enumerate(encoder.encode_batch([item.row for item in self.rows])):
            if isinstance(row, BadRow):
                if number not in self.refused:
                    self.bad.add(*self.rows[number], row)
                self.refused.add(number)
            elif parts := [part for part in encoded_rows(row) if _count_trained(part)]:
                good[number] = parts
        if self.options.on_bad_row == "error":
            self.bad.finish()
        return good

    def _partial(self, name: str) -> Path:
        return self.job.folder / f"losses-{name}.jsonl"


def _in_parts(row: EncodedRow, logprobs: Sequence[float], stretch: int) -> dict[str, list[float]]:
    """Nats and tokens of each `stretch` of a row's tokens, by where it begins."""
    trained = row_tokens(row).trained
    parts: dict[str, list[float]] = {}
    for place, value in enumerate(logprobs[: len(trained) - 1], 1):
        if trained[place]:
            part = parts.setdefault(str(place // stretch * stretch), [0.0, 0])
            part[0], part[1] = part[0] - value, part[1] + 1
    return parts


def _sum_parts(rows: Iterable[Mapping[str, Sequence[float]]]) -> dict[int, tuple[float, int]]:
    sums: dict[int, tuple[float, int]] = {}
    for row in rows:
        for start, (nats, tokens) in row.items():
            before = sums.get(int(start), (0.0, 0))
            sums[int(start)] = before[0] + nats, before[1] + int(tokens)
    return dict(sorted(sums.items()))


def _write_positions(path: Path, models: Mapping[str, Mapping[int, tuple[float, int]]]) -> None:
    """A line for each model and stretch of positions: loss in nats a token, and over how many tokens."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("model", "position", "loss", "tokens"))
        for name, parts in models.items():
            table.writerows((name, start, nats / tokens, tokens) for start, (nats, tokens) in parts.items())


def _per_token(sums: Sequence[float], rows: int) -> float:
    return sums[0] / sums[1]


def _count_trained(row: EncodedRow) -> int:
    """Trained tokens; the first of a row is predicted by nothing."""
    return sum(row_tokens(row).trained[1:])


def _count_bytes(row: EncodedRow, tokenizer: Any) -> int:
    """Bytes of the text that is supervised, without special tokens and the blanks around each stretch of it."""
    tokens = row_tokens(row)
    runs = groupby(zip(tokens.ids, tokens.trained, strict=True), key=lambda pair: pair[1])
    texts = [tokenizer.decode([id for id, _ in run], skip_special_tokens=True) for counts, run in runs if counts]
    return sum(len(text.strip().encode()) for text in texts)
