"""Prepared rows of a stage: made before any of its processes starts, once for all that read the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.console import talk
from ft.data.mix import share_read
from ft.disk import disk_problem
from ft.encode.prepare import prepare, rows_damage, rows_folder
from ft.encode.truncation import long_rows_words
from ft.errors import UserError
from ft.files import remove
from ft.models.identity import refuse_changed
from ft.models.processor import encoder_of
from ft.progress import Progress
from ft.result import read_stats
from ft.results.locks import hold_lock
from ft.results.store import Plan, PlannedStage


def prepare_rows(plan: Plan, planned: PlannedStage, *, notes: bool = True) -> None:
    """Render and tokenise the stage's rows into the cache, unless they are there and whole. Another command that is at
    the same rows is waited for; what one left that was killed at them is cleared away. Either way it is said what of
    the rows is not read, unless a later call says the `notes`."""
    if planned.rows_key is None:
        return
    folder = rows_folder(plan.runs, planned.rows_key)
    if rows_damage(folder):
        _prepare_once(plan, planned, folder)
    for note in read_stats(folder).get("notes", ()) if notes else ():
        talk.print(f"{planned.name}: {note}", style="yellow")


def _prepare_once(plan: Plan, planned: PlannedStage, folder: Path) -> None:
    with hold_lock(artifacts.lock_file(plan.runs, folder.name)):
        damage = rows_damage(folder)
        if not damage:
            return
        if folder.exists() or folder.is_symlink():
            talk.print(f"{folder}: {damage}; the rows are prepared again", style="yellow")
        try:
            for left in (folder, *folder.parent.glob(f".{folder.name}.*")):
                remove(left)
            _prepare(plan, planned, folder)
        except OSError as error:  # nothing is left of them
            problem = disk_problem(error, folder)
            if problem:
                raise UserError([problem]) from error
            raise


def _prepare(plan: Plan, planned: PlannedStage, folder: Path) -> None:
    assert planned.rows_key is not None
    stage = planned.stage
    options = stage.kind.blocks["rows"].load()(**stage.blocks.get("rows", {}))
    max_length, init = planned.rows_key["max_length"], plan.tokenizer_folder(planned)
    model = plan.recipe.model_of(stage)
    encoder = encoder_of(model, init, planned.key.get("chat_template"), options, max_length)
    if model and init is None:  # what was just read names the rows
        refuse_changed(model, {"tokenizer": planned.rows_key["tokenizer"]}, artifacts.hash_cache(plan.runs))
    sources, eval_sources = plan.sources(planned, "data"), plan.sources(planned, "eval_data")
    share = share_read([*sources, *eval_sources])
    with Progress(f"{planned.name}: preparing rows", unit="rows", share=share) as progress:
        stats = prepare(
            folder,
            sources,
            eval_sources,
            encoder,
            rows=options,
            max_length=max_length,
            packing=planned.rows_key["packing"],
            seed=plan.recipe.seed,
            tick=progress.advance,
        )
    talk.print(f"{planned.name}: {rows_line(stats)}")
    if stats["rejected"]:
        talk.print(f"{planned.name}: rejected rows are in {folder / artifacts.REJECTS}", style="yellow")


def rows_line(stats: Mapping[str, Any]) -> str:
    """What became of the rows, in one line: nothing is dropped in silence."""
    train, held_out, long = stats["train"], stats["eval"], stats["too_long"]
    words = [f"{train['rows']:,} rows, {train['trained_tokens']:,} of {train['tokens']:,} tokens in the loss"]
    if held_out:
        words.append(f"{held_out['rows']:,} rows held out")
    if "fill" in train:
        words.append(f"packed into {train['trainer_rows']:,} rows, {train['fill']:.0%} full")
    if stats["rejected"]:
        words.append(f"{stats['rejected']:,} rejected")
    if long_words := long_rows_words(long):
        words.append(long_words)
    if stats["answers_shortened"]:
        words.append(
            f"{stats['answers_shortened']:,} untrained answers without their thinking, as the template writes them"
        )
    return "; ".join(words)
