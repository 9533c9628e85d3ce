"""Rows as the trainer gets them, made once: read, mixed, rendered, masked, packed, written as Arrow.

The folder is named by what decides the rows, is written before any model is loaded or any rank starts, and appears
whole or not at all. `stats.json` beside the rows says what became of every row read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft import artifacts
from ft.data.formats.fields import CONVERSATION_COLUMNS, PAIR_COLUMNS, UNPAIRED_COLUMNS, BadRow, UnreadFields
from ft.data.mix import BadRows, Leakage, eval_side, in_batches, mix_rows
from ft.data.placeholders import Placeholders
from ft.data.sources.read import Source, SourceRow
from ft.encode.conversation import ROLES
from ft.encode.encoder import EncodedRow, Encoder, encoded_rows, row_tokens
from ft.encode.pairs import PairOptions, UnpairedOptions, take_apart
from ft.errors import fail
from ft.files import atomic, digest, write_json
from ft.manifest import find_damage, has_manifest, write_manifest
from ft.result import read_stats
from ft.secret_files import RowWatch

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

RowsKey = Mapping[str, Any]
PREPARED_AS = 3  # raise when rendering or packing changes, so that rows prepared before are made again
EARLIER = (2,)
BATCH = 1000  # rows rendered in one tokenizer call


@dataclass(frozen=True)
class RowOptions:
    """How rows become tokens and labels: a recipe's `rows:` block.

    train_on       last (the last answer only), assistant (every answer), completion (all after the prompt), all
    on_too_long    a row longer than train.max_length: error, drop (counted), drop_turns (whole oldest turns leave),
                   split (a document is cut into pieces of max_length tokens)
    on_bad_row     error, or reject (written to rejects.jsonl with line, reason and fix)
    eval_fraction  share of conversations held out for evaluation, by a hash of how each begins
    """

    train_on: Literal["last", "assistant", "completion", "all"] = "assistant"
    on_too_long: Literal["error", "drop", "drop_turns", "split"] = "error"
    on_bad_row: Literal["error", "reject"] = "error"
    eval_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise ValueError("eval_fraction is a share of the rows, from 0 to below 1")


def rows_folder(runs: Path, key: RowsKey, *, of_result: bool = False) -> Path:
    """Where prepared rows lie. `of_result`: those of a result that is there, which an earlier version may have made."""
    versions = (PREPARED_AS, *EARLIER) if of_result else (PREPARED_AS,)
    folders = [artifacts.prepared_rows(runs, digest([version, key])) for version in versions]
    return next((folder for folder in folders if folder.exists()), folders[0])


def train_rows(folder: Path) -> Dataset:
    """What the trainer trains on: packed rows where packing is on."""
    packed = folder / artifacts.PACKED_ROWS
    return _open(packed if packed.exists() else folder / artifacts.TRAIN_ROWS)


def eval_rows(folder: Path) -> Dataset | None:
    path = folder / artifacts.EVAL_ROWS
    return _open(path) if path.exists() else None


def single_rows(folder: Path) -> Dataset:
    """Training rows one by one, with `where` and `roles`, for looking at."""
    return _open(folder / artifacts.TRAIN_ROWS)


def rows_damage(folder: Path) -> str:
    """Why prepared rows cannot be used, in words; "" where they can."""
    if has_manifest(folder):
        return find_damage(folder)
    if not read_stats(folder):
        return f"{artifacts.STATS} is missing or broken"
    return _damage_by_count(folder)


def _damage_by_count(folder: Path) -> str:
    """The same of rows without a manifest, as all were once: there must be as many as were written."""
    stats = read_stats(folder)
    try:
        held_out = eval_rows(folder)
        counts = len(train_rows(folder)), None if held_out is None else len(held_out)
    except Exception as error:  # whatever Arrow says of a file that is cut
        return f"a file of rows cannot be read ({type(error).__name__})"
    expected = stats["train"]["trainer_rows"], stats["eval"] and stats["eval"]["rows"]
    return "" if counts == expected else "rows are missing"


def _open(path: Path) -> Dataset:
    from datasets import Dataset

    return Dataset.load_from_disk(str(path)) if path.is_dir() else Dataset.from_file(str(path))


def prepare(
    folder: Path,
    sources: Sequence[Source],
    eval_sources: Sequence[Source],
    encoder: Encoder,
    *,
    rows: RowOptions | PairOptions,
    max_length: int,
    packing: str | None,
    seed: int,
    tick: Callable[[int], None] = lambda rows_read: None,
) -> dict[str, Any]:
    """Make the folder and return its stats; `max_length` is that of packed rows. Raises UserError with the rows that
    are wrong; nothing is left then."""
    start = time.monotonic()
    with atomic(folder) as partial:
        partial.mkdir()
        maker = _RowMaker(partial, encoder, rows, seed, tick)
        stats = maker.make(sources, eval_sources)
        if packing:
            _pack(partial, stats, max_length, packing)
        stats["seconds"] = round(time.monotonic() - start, 2)
        write_json(partial / artifacts.STATS, stats)
        write_manifest(partial)
    return stats


@dataclass
class _Side:
    """One of train and eval: its file, and what is in it."""

    path: Path
    schema: pa.Schema
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    by_role: Counter[int] = field(default_factory=Counter)
    trained_by_role: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    largest_id: int = 0

    def __post_init__(self) -> None:
        import pyarrow as pa

        self.file = pa.OSFile(str(self.path), "wb")
        self.writer = pa.ipc.new_stream(self.file, self.schema)

    def write(self, rows: Sequence[tuple[str, EncodedRow]]) -> None:
        import pyarrow as pa

        lines = [{"where": where, "length": self.count(columns), **columns} for where, columns in rows]
        self.writer.write_batch(pa.RecordBatch.from_pylist(lines, schema=self.schema))

    def count(self, columns: EncodedRow) -> int:
        """Count a row, and return its tokens."""
        tokens = row_tokens(columns)
        length = len(tokens.ids)
        self.rows += 1
        self.tokens += length
        self.lengths[length] += 1
        self.largest_id = max(self.largest_id, max(tokens.ids, default=0))
        self.by_role.update(tokens.roles)
        trained = list(compress(tokens.roles, tokens.trained))
        self.trained_by_role.update(trained)
        self.trained_tokens += len(trained)
        return length

    def close(self) -> dict[str, Any]:
        self.writer.close()
        self.file.close()
        return {
            "rows": self.rows,
            "trainer_rows": self.rows,
            "tokens": self.tokens,
            "largest_id": self.largest_id,
            "trained_tokens": self.trained_tokens,
            "by_role": _by_role_name(self.by_role),
            "trained_by_role": _by_role_name(self.trained_by_role),
            "lengths": _histogram(self.lengths),
        }


def _by_role_name(counts: Counter[Any]) -> dict[str, int]:
    return {ROLES[role]: count for role, count in sorted(counts.items())}


def _histogram(lengths: Counter[int]) -> dict[str, Any]:
    """Rows by length in tokens: twelve equal bins, and the quantiles people ask for."""
    if not lengths:
        return {"bins": [], "quantiles": {}}
    longest, total = max(lengths), sum(lengths.values())
    width = max(1, -(-longest // 12))
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[(length - 1) // width] += count
    quantiles, count_so_far = {}, 0
    pending = [("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("longest", 1.0)]
    for length in sorted(lengths):
        count_so_far += lengths[length]
        while pending and count_so_far >= pending[0][1] * total:
            quantiles[pending.pop(0)[0]] = length
    bars = [{"up_to": (place + 1) * width, "rows": bins[place]} for place in range(max(bins) + 1)]
    return {"bins": bars, "quantiles": quantiles}


def _schema(encoder: Encoder) -> pa.Schema:
    """The columns of prepared rows: the encoder's, where a row is from, and how many tokens it has."""
    import pyarrow as pa  # a fifth of what `ft plan` takes, and it prepares nothing

    return pa.schema([("where", pa.string()), ("length", pa.int32()), *encoder.arrow_columns()])


def _columns_read(rows: RowOptions | PairOptions) -> frozenset[str]:
    if isinstance(rows, UnpairedOptions):
        return UNPAIRED_COLUMNS
    return PAIR_COLUMNS if isinstance(rows, PairOptions) else CONVERSATION_COLUMNS


class _RowMaker:
    """Reads, renders and writes both sides of the rows."""

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        rows: RowOptions | PairOptions,
        seed: int,
        tick: Callable[[int], None],
    ):
        self.folder, self.encoder, self.rows, self.seed, self.tick = folder, encoder, rows, seed, tick
        self.schema = _schema(encoder)
        self.bad = BadRows(rows.on_bad_row, folder / artifacts.REJECTS)
        self.leakage = Leakage()
        self.watch = RowWatch()
        self.unread = UnreadFields(_columns_read(rows))
        self.placeholders = Placeholders()

    def make(self, sources: Sequence[Source], eval_sources: Sequence[Source]) -> dict[str, Any]:
        train = _Side(self.folder / artifacts.TRAIN_ROWS, self.schema)
        holds_out = eval_sources or self.rows.eval_fraction
        held_out = _Side(self.folder / artifacts.EVAL_ROWS, self.schema) if holds_out else None
        for batch in self.encode(sources, "train" if eval_sources else None):
            self.split(batch, train, held_out)
        if held_out and eval_sources:
            for batch in self.encode(eval_sources, "eval"):
                held_out.write([(source_row.where, row) for source_row, row in batch])
            self.leakage.raise_any()
        self.bad.finish()
        counts = self.encoder.counts
        stats: dict[str, Any] = {
            "train": train.close(),
            "eval": held_out.close() if held_out else None,
            "rejected": self.bad.count,
            "too_long": counts.of_long_rows(),
            "answers_shortened": counts.answers_shortened,
            "notes": [*self.encoder.notes, *self.unread.notes, *self.placeholders.notes, *self.watch.notes],
        }
        self.refuse_empty(stats, sources)
        return stats

    def encode(
        self, sources: Sequence[Source], side: Literal["train", "eval"] | None
    ) -> Iterator[list[tuple[SourceRow, EncodedRow]]]:
        """Good rows in batches; bad ones go to `self.bad`, dropped ones are counted by the encoder."""
        source_rows = mix_rows(sources, seed=self.seed, bad=self.bad)
        if isinstance(self.rows, UnpairedOptions):
            source_rows = take_apart(source_rows)
        for batch in in_batches(source_rows, BATCH):
            good = []
            for item in batch:
                self.watch.add(item.where, item.row)
                self.unread.add(item.row)
                self.placeholders.add(item.row)
            for item, row in zip(batch, self.encoder.encode_batch([item.row for item in batch]), strict=True):
                if isinstance(row, BadRow):
                    self.bad.add(item.where, item.row, row)
                elif parts := encoded_rows(row):
                    good += [(item, part) for part in parts]
                    if side:
                        self.leakage.add(side, item)
            self.tick(len(batch))
            yield good

    def split(self, batch: list[tuple[SourceRow, EncodedRow]], train: _Side, held_out: _Side | None) -> None:
        fraction = self.rows.eval_fraction
        sides: tuple[list[tuple[str, EncodedRow]], list[tuple[str, EncodedRow]]] = ([], [])
        for item, row in batch:
            sides[fraction > 0 and eval_side(item.row, fraction, self.seed)].append((item.where, row))
        train.write(sides[0])
        if held_out and fraction:
            held_out.write(sides[1])

    def refuse_empty(self, stats: dict[str, Any], sources: Sequence[Source]) -> None:
        where = ", ".join(source.path for source in sources)
        if not stats["train"]["rows"]:
            raise fail(
                where,
                f"no row is left to train on ({stats['rejected']} rejected, {stats['too_long']['dropped']} too long)",
                "Look at the sources, max_length and eval_fraction.",
            )
        if stats["eval"] and not stats["eval"]["rows"]:
            raise fail(where, "no row is held out for evaluation", "Raise eval_fraction, or give eval_data rows.")


def _pack(folder: Path, stats: dict[str, Any], max_length: int, strategy: str) -> None:
    """Fill rows of `max_length` tokens with whole conversations, by TRL's own best-fit decreasing."""
    from datasets import disable_progress_bars, enable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    rows = _open(folder / artifacts.TRAIN_ROWS).select_columns(["input_ids", "labels"])
    packed = pack_dataset(rows, max_length, strategy, map_kwargs={"keep_in_memory": len(rows) < 100_000})
    packed.save_to_disk(str(folder / artifacts.PACKED_ROWS))
    enable_progress_bars()
    stats["train"]["trainer_rows"] = len(packed)
    stats["train"]["fill"] = round(stats["train"]["tokens"] / (len(packed) * max_length), 4)
