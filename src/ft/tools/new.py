"""A recipe for own data out of one that works: the rows are looked at first, then a few lines of YAML are written.

The new recipe `extends:` the old one and says only what differs: the stage's rows, and what is set. Stages behind it
that read rows of the old recipe would train on them too, or ask questions that the new data never answers, so they are
left out (`skip: true`) with all that stands on them; delete such a line to have a stage back, or give it `data:`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ft.data.formats import FORMATS, detect, rows_of
from ft.data.formats.fields import BadRow
from ft.data.sources.read import Source, missing, read
from ft.errors import Problems, UserError, fail
from ft.files import atomic, create, refuse_existing
from ft.hub import local_path
from ft.recipe import Recipe, Stage
from ft.recipe.find import bundled_recipes, recipes_of_kind
from ft.recipe.merge import read_sets
from ft.recipe.types import reference
from ft.recipe.write import OVERWRITE, relative_path, yaml_value, yaml_word
from ft.recipe.yaml import Block
from ft.results.store import Plan
from ft.stages import STAGES
from ft.tools.own_rows import RowSummary, advice, long_rows_line, shares_to_hold_out, summarize

SAMPLE = 20  # rows that tell the format
SHOWN = 10  # reasons of bad rows
CONVERSATIONS = ("conversations", "documents")  # rows of kinds that train on whole rows, not on pairs or bare prompts
TOO_LONG = ("drop_turns", "drop", "split")


@dataclass(frozen=True)
class ForkOptions:
    """What the user asks for. `split` and `subset` are of a Hub data set; `sets` are those that the plan was read with,
    for the new recipe to hold."""

    name: str
    data: str
    stage: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reject: bool = False
    too_long: str | None = None
    force: bool = False
    max_length: int | None = None
    sets: Sequence[str] = ()
    split: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class Fork:
    """The recipe that was written."""

    path: Path
    stage: Stage
    source: Source
    summary: RowSummary
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    max_length: int | None
    on_too_long: str


def fork(
    plan: Plan, options: ForkOptions, check: Callable[[Path], Recipe], tick: Callable[[int], None] = lambda rows: None
) -> Fork:
    """Look at the rows and write the recipe. Raises UserError, and writes nothing, where the rows would not train."""
    if options.too_long not in (None, *TOO_LONG):
        fix = "Write drop_turns (drops the oldest turns), drop, or split (documents are cut into pieces)."
        raise fail("--too-long", f"'{options.too_long}'", fix)
    path = _place(plan.recipe, options)
    source, notes = _source(options)
    stage = _stage(plan.recipe, options.stage, source)
    source, notes = _fit_format(source, notes, stage, plan.recipe)
    settings = _settings(plan.recipe, stage, options)
    limit = options.max_length or stage.blocks.get("train", {}).get("max_length")
    summary = summarize(plan, stage, source, limit, tick)
    on_too_long = options.too_long or stage.complete("rows").get("on_too_long", "error")
    _check_usable(summary, source, options, limit, on_too_long)
    skipped = _skipped(plan.recipe, stage)
    rows = _rows_block(stage, summary, source, options)
    text = _yaml(path, plan.recipe, stage, source, skipped, rows, settings)
    with atomic(path) if options.force else create(path, OVERWRITE) as beside:  # beside it, so that paths are right
        beside.write_text(text, encoding="utf-8")
        check(beside)
    return Fork(path, stage, source, summary, skipped, tuple(notes), limit, on_too_long)


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
    if not options.force:
        refuse_existing(path, OVERWRITE)
    return path


def _stage(recipe: Recipe, name: str | None, source: Source) -> Stage:
    """The stage that gets the rows: by name, or the first on such rows, or the first that trains on any."""
    if name is None:
        trained = [s for s in recipe.stages if s.kind.rows and not _rounds_of(recipe, s.name)]
        found = next((s for s in trained if s.kind.rows == rows_of(source.format or "")), None)
        found = found or next((s for s in trained if s.kind.rows in CONVERSATIONS), next(iter(trained), None))
        if found is None:
            raise fail(str(recipe.file), "no stage of it trains on rows", "Name the stage that reads them: --stage.")
        return found
    found = next((s for s in recipe.stages if s.name == name), None)
    if found is None:
        raise fail("--stage", f"no stage '{name}'", f"There are: {', '.join(s.name for s in recipe.stages)}.")
    if not found.kind.reads_data:
        raise fail("--stage", f"'{name}' reads no data", "Name another.")
    if _rounds_of(recipe, name):
        raise fail("--stage", f"'{name}' is made in rounds, on rows that these make", "Name a stage outside of rounds.")
    return found


def _skipped(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """Stages behind this one that read rows of the old recipe, and those that need one of them."""
    skipped: list[str] = []
    for later in recipe.stages[recipe.stages.index(stage) + 1 :]:
        sources = [reference(source["path"]) for source in (*later.data, *later.eval_data)]
        if None in sources or set(later.parents) & {*skipped}:
            skipped.append(later.name)
    # Rounds are whole or not at all, and the file has the names of their stages without the number of the round
    names = [name for stage in skipped for name in _rounds_of(recipe, stage) or [stage]]
    return tuple(dict.fromkeys(names))


def _rounds_of(recipe: Recipe, stage: str) -> Sequence[str]:
    """The stages, as they are written, of the rounds that this one is made in; () outside of rounds."""
    return next((one.names for one in recipe.rounds if one.number(stage)), ())


def _settings(recipe: Recipe, stage: Stage, options: ForkOptions) -> Block:
    """What `--set` and `--max-length` say, for the new recipe to say it."""
    sets = [*options.sets]
    if options.max_length is not None:
        if "train" not in stage.kind.blocks:
            raise fail("--max-length", f"'{stage.name}' does not train", "Leave it out.")
        sets.append(f"{stage.name}.train.max_length={options.max_length}")
    return read_sets(recipe.file, sets)


# The rows' file


def _source(options: ForkOptions) -> tuple[Source, list[str]]:
    """The data as a source with its format, told from the first rows where it is not given."""
    if options.format is not None and options.format not in FORMATS:
        raise fail("--format", f"no format '{options.format}'", f"There are: {', '.join(FORMATS)}.")
    split, columns = options.split or Source.split, dict(options.columns)
    source = Source(options.data, format=options.format, split=split, name=options.subset, columns=columns)
    if absent := missing(source, "--data"):
        raise UserError([absent])
    if source.format is not None:
        return source, []
    name = _detect_format(source)
    return replace(source, format=name), [f"The first rows tell the format: {name}."]


def _detect_format(source: Source) -> str:
    """The format that the first rows are in; UserError where they are in none, or in several."""
    found: dict[str, str] = {}
    for source_row in islice(read(source, _ignore), SAMPLE):
        try:
            found.setdefault(detect(source_row.row, source.columns), source_row.where)
        except BadRow as bad:
            raise fail(source_row.where, bad.what, _as_option(bad.fix)) from bad
    if not found:
        raise fail(source.path, "none of its rows can be read", "Look at its first lines.")
    if len(found) > 1:
        looks = ", ".join(f"{name} ({where})" for name, where in found.items())
        raise fail(source.path, f"its first rows are in several formats: {looks}", "Say which one with --format.")
    return next(iter(found))


def _ignore(where: str, row: object, bad: BadRow) -> None:
    """The `Report` while the format is looked for: the whole file is read next, and tells of every bad row."""


def _as_option(fix: str) -> str:
    return fix.replace("format: …", "--format").replace("columns: {ours: theirs}", "--columns ours=theirs")


def _fit_format(source: Source, notes: list[str], stage: Stage, recipe: Recipe) -> tuple[Source, list[str]]:
    """The source as this stage reads it. UserError where it trains on rows of another sort."""
    rows = rows_of(source.format or "")
    if stage.kind.rows in CONVERSATIONS and source.format == "hh_pairs":
        note = "A pair holds two transcripts; the chosen one is trained on: format hh."
        return replace(source, format="hh"), [*notes, note]
    if stage.kind.rows in CONVERSATIONS and rows not in CONVERSATIONS:
        raise _not_conversations(source, rows, stage, recipe)
    if stage.kind.rows == "pairs" and rows != "pairs":
        what = f"its rows are no pairs of answers, and '{stage.name}' trains on pairs"
        raise fail(source.path, what, "Name another stage: --stage.")
    if stage.kind.rows == "labelled answers" and rows not in ("labelled answers", "pairs"):
        what = f"its rows have no labels and are no pairs of answers, and '{stage.name}' trains on these"
        raise fail(source.path, what, "Give each row `label: true` or `false`, or name another stage: --stage.")
    return source, notes


def _not_conversations(source: Source, rows: str, stage: Stage, recipe: Recipe) -> UserError:
    name = source.format or ""
    others = {"prompt": "prompts without answers", "user_turns": "turns without answers"}
    what = others.get(name, rows if "answers" in rows else f"{rows} of answers")
    fix = {
        "prompt": "Map the column with the answers: --format prompt_completion --columns completion=answer.",
        "user_turns": "Let a stage of kind `gatt` answer them first.",
        "preference": "Or train on the chosen answers: --format prompt_completion --columns completion=chosen, or "
        "--format messages --columns messages=chosen where they are whole dialogues.",
    }.get(name, "")
    if rows != "questions":
        fix = f"{_stage_fix(rows, recipe)} {fix}".strip()
    return fail(source.path, f"its rows are {what}, and '{stage.name}' trains on conversations", fix)


def _stage_fix(rows: str, recipe: Recipe) -> str:
    """The stage of this recipe that trains on such rows, or recipes that have one."""
    if own := next((one.name for one in recipe.stages if one.kind.rows == rows), None):
        return f"Give them to the stage that trains on {rows}: --stage {own}."
    kinds = {name for name, kind in STAGES.items() if kind.rows == rows}
    others = " or ".join(f"--from {name}" for name in recipes_of_kind(kinds, recipe.argument)[:2])
    return f"Start from a recipe with a stage that trains on {rows}: {others}."


def _check_usable(
    summary: RowSummary, source: Source, options: ForkOptions, limit: int | None, on_too_long: str
) -> None:
    """Raise UserError where the stage would refuse these rows, with the option that sets the bad ones aside."""
    problems, bad = Problems(), summary.bad.rows
    if bad and not (options.reject and summary.good):
        problems += summary.bad.problems(SHOWN)
    if bad and not summary.good:
        problems.add(source.path, f"all {bad:,} rows are bad", "Fix them, or say another --format.")
    elif bad and not options.reject:
        count = f"{bad:,} of {bad + summary.good:,} rows are bad"
        problems.add(source.path, count, "Fix them, or skip them with --reject.")
    if limit is not None and on_too_long == "error" and (long := summary.longer_than(limit)):
        what = f"{summary.share(long)} are longer than max_length {limit:,}"
        what += f", the first at {summary.first_long}, the longest of {summary.longest:,} tokens"
        problems.add(source.path, what, advice(summary, limit))
    problems.raise_any()


# The recipe


def _rows_block(stage: Stage, summary: RowSummary, source: Source, options: ForkOptions) -> dict[str, Any]:
    if not stage.kind.trains:
        return {}
    block: dict[str, Any] = {}
    if stage.kind.rows:
        shares = shares_to_hold_out(stage)
        share = next((s for s in shares if 0 < summary.held_out[s] < summary.good), None)
        if share is None:
            raise fail(source.path, "its rows open all alike, so none can be held out", "Give it more conversations.")
        block["eval_fraction"] = share
    if options.too_long:
        block["on_too_long"] = options.too_long
    if summary.bad.rows:
        block["on_bad_row"] = "reject"
    return block


def _yaml(
    path: Path,
    recipe: Recipe,
    stage: Stage,
    source: Source,
    skipped: tuple[str, ...],
    rows: Mapping[str, Any],
    settings: Block,
) -> str:
    """The recipe's text: what it extends, and only what differs."""
    folder, name = path.parent.resolve(), stage.name
    parent = recipe.argument if recipe.argument in bundled_recipes() else relative_path(recipe.file, folder)
    blocks = {one["name"]: {key: value for key, value in one.items() if key != "name"} for one in settings["stages"]}
    own = blocks.pop(name, {})
    if rows:
        own = {"rows": {**rows, **own.get("rows", {})}, **{key: value for key, value in own.items() if key != "rows"}}
    lines = [
        f"# {recipe.name} on rows of its own. `ft plan --diff` tells what differs from the recipe it extends.",
        f"extends: {yaml_word(parent)}",
        *(f"{key}: {yaml_value(value)}" for key, value in settings.items() if key != "stages"),
        "stages:",
        f"  - {'kind' if name == stage.kind_name else 'name'}: {name}",
        f"    data: [{yaml_value(_entry(source, folder))}]",
    ]
    if stage.eval_data:
        lines.append("    eval_data: [] # rows are held out of the data instead")
    lines += [f"    {key}: {yaml_value(value)}" for key, value in own.items()]
    lines += [f"  - {yaml_value({'name': other, **block})}" for other, block in blocks.items() if other not in skipped]
    if skipped:
        lines.append("  # These read rows of the recipe it extends; give them `data:` of your own to have them back.")
        lines += [f"  - {{name: {name}, skip: true}}" for name in skipped]
    return "\n".join(lines) + "\n"


def _entry(source: Source, folder: Path) -> dict[str, Any]:
    """The source as the recipe writes it."""
    is_local = local_path(source.path) is not None
    path = relative_path(Path(source.path), folder) if is_local else source.path
    entry: dict[str, Any] = {"path": path, "format": source.format}
    default = Source(source.path)
    entry |= {key: value for key in ("name", "split") if (value := getattr(source, key)) != getattr(default, key)}
    return entry | ({"columns": source.columns} if source.columns else {})


def fork_lines(fork: Fork) -> Iterator[str]:
    """What to tell the user, line by line."""
    yield from fork.notes
    summary = fork.summary
    bad = f", {summary.bad.rows:,} bad ones will be set aside" if summary.bad.rows else ""
    if summary.trained:
        yield f"{fork.source.path}: {summary.good:,} good rows{bad}"
        yield f"{summary.trained:,} of {summary.tokens:,} tokens in the loss; longest row {summary.longest:,}"
        if fork.max_length and (line := long_rows_line(summary, fork.max_length, fork.on_too_long)):
            yield line
    elif summary.lengths:
        yield f"{fork.source.path}: {summary.good:,} good rows{bad}"
        mean = summary.tokens / summary.lengths.total()
        yield f"what they ask is {mean:,.0f} tokens long on average, {summary.longest:,} at most"
        if (limit := fork.stage.complete("rows").get("max_prompt_length")) and (long := summary.longer_than(limit)):
            yield f"{summary.share(long)} are longer than rows.max_prompt_length {limit:,}"
    else:
        yield f"{fork.source.path}: {summary.good:,} rows in format {fork.source.format}{bad}"
        yield f"Not checked: {_unchecked(fork)}"
    yield from summary.unread.notes if summary.unread else ()
    yield from summary.placeholders.notes
    yield from map(str, summary.bad.problems(SHOWN))
    yield f"wrote {fork.path}"


def _unchecked(fork: Fork) -> str:
    if fork.summary.unchecked:
        return f"the chat template, special tokens and lengths. {fork.summary.unchecked}"
    return f"lengths, and what '{fork.stage.name}' reads of other columns; it looks when it runs."
