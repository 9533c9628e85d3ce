"""A recipe for own data out of one that works: the rows are looked at first, then a few lines of YAML are written.

The new recipe `extends:` the old one and says only what differs: the stage's rows. Stages behind it that judge the
model on rows of the old recipe would ask questions that the new data never answers, so they are left out
(`skip: true`); delete that line to have them back, or give them `data:` of your own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ft.data.formats import FORMATS, PAIRS, QUESTIONS, detect
from ft.data.formats.fields import CONVERSATION_COLUMNS, PAIR_COLUMNS, BadRow, UnreadFields
from ft.data.mix import eval_side, format_rows, in_batches
from ft.data.sources.files import SourceRow
from ft.data.sources.read import Source, missing, read
from ft.encode.encoder import EncodedRow, Encoder, row_tokens
from ft.encode.prepare import RowOptions
from ft.errors import Problem, Problems, UserError, fail
from ft.files import atomic
from ft.hub import local_path
from ft.models.processor import encoder_of
from ft.recipe import Recipe, Stage
from ft.recipe.find import bundled_recipes
from ft.recipe.write import relative_path, yaml_word
from ft.results.store import Plan

SAMPLE = 20  # rows that tell the format
SHOWN = 10  # bad rows named in full
BATCH = 500  # rows rendered in one tokenizer call
HELD_OUT = (0.05, 0.1, 0.2, 0.5)  # shares to hold out, the first that leaves rows on both sides
CONVERSATIONS = ("conversations", "documents")  # rows of kinds that train on whole rows, not on pairs or bare prompts


@dataclass(frozen=True)
class ForkOptions:
    """What the user asks for."""

    name: str
    data: str
    stage: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reject: bool = False
    too_long: str | None = None
    force: bool = False


@dataclass
class DataSummary:
    """What the rows of a file are like.

    long       rows over the stage's max_length; `first_long` names one
    rendered   whether a tokenizer was there to render them; without one, only their format is known to be right
    held_out   share → rows it would hold out
    unread     columns that the stage does not read; None where it is no stage that trains on whole rows
    """

    good: int = 0
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)
    rendered: bool = False
    tokens: int = 0
    trained: int = 0
    long: int = 0
    first_long: str = ""
    longest: int = 0
    held_out: Counter[float] = field(default_factory=Counter)
    unread: UnreadFields | None = None

    def refuse(self, where: str, row: object, bad: BadRow) -> None:
        """A `Report`: counts a bad row, and remembers the first ones."""
        self.bad += 1
        if len(self.problems) < SHOWN:
            self.problems.append(Problem(where, bad.what, bad.fix))


@dataclass(frozen=True)
class Fork:
    """The recipe that was written."""

    path: Path
    stage: str
    source: Source
    summary: DataSummary
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def fork(plan: Plan, options: ForkOptions, check: Callable[[Path], Recipe]) -> Fork:
    """Look at the rows and write the recipe. Raises UserError, and writes nothing, where the rows would not train."""
    if options.too_long not in (None, "drop_turns", "drop"):
        raise fail("--too-long", f"'{options.too_long}'", "Write drop_turns (whole oldest turns leave) or drop.")
    path = _place(plan.recipe, options)
    stage = _stage(plan.recipe, options.stage)
    source, notes = _source(options, stage)
    summary = summarize(plan, stage, source)
    _check_usable(summary, stage, source, options)
    later_stages = plan.recipe.stages[plan.recipe.stages.index(stage) + 1 :]
    skipped = tuple(s.name for s in later_stages if "metrics" in s.kind.leaves)
    text = _yaml(path, plan.recipe, stage, source, skipped, _rows_block(stage, summary, source, options))
    _write(path, text, check)
    return Fork(path, stage.name, source, summary, skipped, tuple(notes))


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """`prompt=question,completion=answer`, as often as needed, as {ours: theirs}."""
    found = {}
    for pair in (pair for word in words for pair in word.split(",")):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise fail("--columns", f"'{pair}' names no two columns", "Write ours=theirs, as in prompt=question.")
        found[ours] = theirs
    return found


def _place(recipe: Recipe, options: ForkOptions) -> Path:
    path = Path(options.name) if options.name.endswith((".yaml", ".yml")) else Path("recipes") / f"{options.name}.yaml"
    if path.resolve() == recipe.file.resolve():
        raise fail(str(path), "that is the recipe to start from", "Give the new one another name.")
    if path.exists() and not options.force:
        raise fail(str(path), "is there already", "Give another name, or --force to overwrite it.")
    return path


def _stage(recipe: Recipe, name: str | None) -> Stage:
    """The stage that gets the rows: by name, or the first on conversations, or the first that prepares rows."""
    if name is None:
        trained = [s for s in recipe.stages if s.kind.rows]
        found = next((s for s in trained if s.kind.rows == "conversations"), next(iter(trained), None))
        if found is None:
            raise fail(str(recipe.file), "no stage of it trains on rows", "Name the stage that reads them: --stage.")
        return found
    found = next((s for s in recipe.stages if s.name == name), None)
    if found is None:
        raise fail("--stage", f"no stage '{name}'", f"There are: {', '.join(s.name for s in recipe.stages)}.")
    if not found.kind.reads_data:
        raise fail("--stage", f"'{name}' reads no data", "Name another.")
    return found


# The file


def _source(options: ForkOptions, stage: Stage) -> tuple[Source, list[str]]:
    """The data as a source with its format, told from the first rows where it is not given."""
    if local_path(options.data) is None:
        raise fail("--data", f"'{options.data}' is no local file", "Name a .jsonl, .json, .csv or .parquet file.")
    if absent := missing(Source(options.data), "--data"):
        raise UserError([absent])
    if options.format is not None and options.format not in FORMATS:
        raise fail("--format", f"no format '{options.format}'", f"There are: {', '.join(FORMATS)}.")
    name, notes = options.format, []
    if name is None:
        name = _detect_format(options.data, dict(options.columns))
        notes.append(f"The first rows tell the format: {name}.")
        if name == "hh_pairs" and stage.kind.rows in CONVERSATIONS:
            name = "hh"
            notes.append("A pair holds two transcripts; the chosen one is trained on: format hh.")
    if stage.kind.rows in CONVERSATIONS and name in (*PAIRS, *QUESTIONS):
        raise _not_conversations(options.data, name, stage)
    if stage.kind.rows == "pairs" and name not in PAIRS:
        what = f"its rows are no pairs of answers, and '{stage.name}' trains on pairs"
        raise fail(options.data, what, "Name another stage: --stage.")
    return Source(options.data, format=name, columns=dict(options.columns)), notes


def _detect_format(path: str, columns: dict[str, str]) -> str:
    """The format that the first rows are in; UserError where they are in none, or in several."""
    found: dict[str, str] = {}
    for source_row in islice(read(Source(path), _ignore), SAMPLE):
        try:
            found.setdefault(detect(source_row.row, columns), source_row.where)
        except BadRow as bad:
            raise fail(source_row.where, bad.what, _as_option(bad.fix)) from bad
    if not found:
        raise fail(path, "none of its rows can be read", "Look at its first lines.")
    if len(found) > 1:
        looks = ", ".join(f"{name} ({where})" for name, where in found.items())
        raise fail(path, f"its first rows are in several formats: {looks}", "Say which one with --format.")
    return next(iter(found))


def _ignore(where: str, row: object, bad: BadRow) -> None:
    """The `Report` while the format is looked for: the whole file is read next, and tells of every bad row."""


def _as_option(fix: str) -> str:
    return fix.replace("format: …", "--format").replace("columns: {ours: theirs}", "--columns ours=theirs")


def _not_conversations(path: str, name: str, stage: Stage) -> UserError:
    what = {"prompt": "prompts without answers", "user_turns": "turns without answers"}.get(name, "pairs of answers")
    fix = {
        "prompt": "Map the column with the answers: --format prompt_completion --columns completion=answer.",
        "user_turns": "Let a stage of kind `gatt` answer them first.",
        "hh_pairs": "Train on the chosen answers: --format hh.",
        "preference": "Train on the chosen answers: --format prompt_completion --columns completion=chosen, or "
        "--format messages --columns messages=chosen where they are whole dialogues.",
    }
    other = "Give them to a stage that reads pairs: --stage."
    return fail(path, f"its rows are {what}, and '{stage.name}' trains on conversations", fix.get(name, other))


# The rows


def summarize(plan: Plan, stage: Stage, source: Source) -> DataSummary:
    """Read every row as the stage would: format, template, masks and length."""
    columns = {"pairs": PAIR_COLUMNS, **dict.fromkeys(CONVERSATIONS, CONVERSATION_COLUMNS)}.get(stage.kind.rows or "")
    summary = DataSummary(unread=UnreadFields(columns) if columns else None)
    encoder = _encoder(plan, stage)
    summary.rendered = encoder is not None
    limit = stage.blocks["train"]["max_length"] if encoder else None
    rows = format_rows(source, summary.refuse)
    for batch in in_batches(rows, BATCH):
        encoded = encoder.encode_batch([source_row.row for source_row in batch]) if encoder else [None] * len(batch)
        for source_row, row in zip(batch, encoded, strict=True):
            if isinstance(row, BadRow):
                summary.refuse(source_row.where, source_row.row, row)
                continue
            _count_row(summary, source_row, plan.recipe.seed, stage)
            if row is not None:
                _measure_row(summary, source_row, row, limit)
    return summary


def _encoder(plan: Plan, stage: Stage) -> Encoder | None:
    """The stage's own encoder without its limit; None where no tokenizer is plan yet, or the stage renders no whole
    rows: pairs are measured when they are prepared."""
    if stage.kind.rows not in CONVERSATIONS:
        return None
    try:
        folder = plan.tokenizer_folder(plan.stage(stage.name))
        options = RowOptions(**stage.blocks["rows"])
        return encoder_of(plan.recipe.model_of(stage), folder, plan.recipe.chat_template, options, max_length=None)
    except UserError:
        return None


def _count_row(summary: DataSummary, source_row: SourceRow, seed: int, stage: Stage) -> None:
    summary.good += 1
    if summary.unread:
        summary.unread.add(source_row.row)
    if stage.kind.rows:
        summary.held_out.update(share for share in _shares(stage) if eval_side(source_row.row, share, seed))


def _measure_row(summary: DataSummary, source_row: SourceRow, row: EncodedRow, limit: int | None) -> None:
    tokens = row_tokens(row)
    length = len(tokens.ids)
    summary.tokens += length
    summary.trained += sum(tokens.trained)
    summary.longest = max(summary.longest, length)
    if limit is not None and length > limit:
        summary.long += 1
        summary.first_long = summary.first_long or source_row.where


def _check_usable(summary: DataSummary, stage: Stage, source: Source, options: ForkOptions) -> None:
    """Raise UserError where the stage would refuse these rows, with the option that sets the bad ones aside."""
    problems = Problems()
    if summary.bad and not options.reject:
        problems += summary.problems
        first = f", the first {SHOWN} of them above" if summary.bad > SHOWN else ""
        count = f"{summary.bad:,} of {summary.bad + summary.good:,} rows are bad{first}"
        problems.add(source.path, count, "Fix them, or skip them with --reject.")
    limit = stage.blocks.get("train", {}).get("max_length")
    if summary.long and _on_too_long(stage, options) == "error":
        what = f"{summary.long:,} of {summary.good:,} rows are longer than max_length {limit:,}"
        what += f", the first at {summary.first_long}, the longest of {summary.longest:,} tokens"
        problems.add(source.path, what, "Choose --too-long drop_turns (drops the oldest turns) or --too-long drop.")
    if not summary.good:
        problems.add(source.path, "no row is good", "Is it another --format?")
    problems.raise_any()


def _on_too_long(stage: Stage, options: ForkOptions) -> str:
    return options.too_long or RowOptions(**stage.blocks.get("rows", {})).on_too_long


def _shares(stage: Stage) -> list[float]:
    """Shares to hold out, the old recipe's own first."""
    own_share = stage.blocks.get("rows", {}).get("eval_fraction", 0.0)
    return list(dict.fromkeys(share for share in (own_share, *HELD_OUT) if share))


# The recipe


def _rows_block(stage: Stage, summary: DataSummary, source: Source, options: ForkOptions) -> dict[str, Any]:
    if not stage.kind.trains:
        return {}
    share = next((s for s in _shares(stage) if 0 < summary.held_out[s] < summary.good), None)
    if share is None:
        raise fail(source.path, "its rows open all alike, so none can be held out", "Give it more conversations.")
    block: dict[str, Any] = {"eval_fraction": share}
    if options.too_long:
        block["on_too_long"] = options.too_long
    if summary.bad:
        block["on_bad_row"] = "reject"
    return block


def _yaml(
    path: Path, recipe: Recipe, stage: Stage, source: Source, skipped: tuple[str, ...], rows: Mapping[str, Any]
) -> str:
    """The recipe's text: what it extends, and only what differs."""
    folder = path.parent.resolve()
    parent = recipe.argument if recipe.argument in bundled_recipes() else relative_path(recipe.file, folder)
    data = {"path": relative_path(Path(source.path), folder), "format": source.format}
    if source.columns:
        data["columns"] = "{" + ", ".join(f"{yaml_word(k)}: {yaml_word(v)}" for k, v in source.columns.items()) + "}"
    entry = ", ".join(f"{key}: {value if key == 'columns' else yaml_word(str(value))}" for key, value in data.items())
    lines = [
        f"# {recipe.name} on rows of its own. `ft plan --diff` tells what differs from the recipe it extends.",
        f"extends: {yaml_word(parent)}",
        "stages:",
        f"  - {'kind' if stage.name == stage.kind_name else 'name'}: {stage.name}",
        f"    data: [{{{entry}}}]",
    ]
    if stage.eval_data:
        lines.append("    eval_data: [] # rows are held out of the data instead")
    if rows:
        lines.append("    rows: {" + ", ".join(f"{key}: {value}" for key, value in rows.items()) + "}")
    if skipped:
        lines.append(
            "  # These judge on rows of the recipe it extends; give them `data:` of your own to have them back."
        )
        lines += [f"  - {{name: {name}, skip: true}}" for name in skipped]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str, check: Callable[[Path], Recipe]) -> None:
    """The recipe appears when it has been read back without a problem; beside it until then, so paths stay right."""
    with atomic(path) as beside:
        beside.write_text(text, encoding="utf-8")
        check(beside)


def fork_lines(fork: Fork) -> Iterator[str]:
    """What to tell the user, line by line."""
    yield from fork.notes
    summary = fork.summary
    bad = f", {summary.bad:,} bad ones will be set aside" if summary.bad else ""
    yield f"{fork.source.path}: {summary.good:,} good rows{bad}"
    if summary.rendered:
        long = f", {summary.long:,} rows too long" if summary.long else ""
        yield f"{summary.trained:,} of {summary.tokens:,} tokens in the loss; longest row {summary.longest:,}{long}"
    yield from summary.unread.notes if summary.unread else ()
    yield from map(str, summary.problems)
    yield f"wrote {fork.path}"
