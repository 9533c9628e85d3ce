"""Frees space in a runs folder, when asked: results and prepared rows, never what is in use.

What was made from a result is told before it goes; a result that another finished one rests on stays unless forced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.files import read_json
from ft.results.ledger import Entry, entries, in_use, named, size
from ft.run.run import locked


@dataclass(frozen=True)
class Removal:
    """What `ft runs rm` would take away: results and folders of prepared rows, with their sizes; and what rests on the
    results, made from them directly or over others."""

    results: tuple[Entry, ...]
    rows: tuple[Path, ...]
    sizes: Mapping[Path, int]
    resting: tuple[Entry, ...]

    @property
    def folders(self) -> list[Path]:
        return [*(one.folder for one in self.results), *self.rows]


def removal(runs: Path, words: Sequence[str], cache: bool = False, set_aside: bool = False) -> Removal:
    """What is meant, with everything to know before it goes. Raises UserError where a word names no result, or what is
    meant is in use."""
    all_ = entries(runs)
    results = [named(all_, word, runs) for word in words]
    results += [one for one in all_ if set_aside and one.state == "set aside"]
    results = list({one.folder: one for one in results}.values())
    rows = artifacts.all_prepared_rows(runs) if cache else []
    _unused(runs, all_, results, rows)
    folders = [*(one.folder for one in results), *rows]
    gone = {one.folder for one in results}
    resting = tuple(one for one in _resting(all_, results) if one.folder not in gone)
    return Removal(tuple(results), tuple(rows), {folder: size(folder) for folder in folders}, resting)


def _resting(all_: Sequence[Entry], results: Sequence[Entry]) -> list[Entry]:
    """Finished results made from these; a result that is there twice, or set aside, is not the last of its kind."""
    meant = {one.folder for one in results}
    left = {one.fingerprint for one in all_ if one.state == "done" and one.folder not in meant}
    lost = {one.fingerprint for one in results if one.state == "done"} - left
    found: dict[Path, Entry] = {}
    while more := [one for one in all_ if one.folder not in found and one.state == "done" and one.parents & lost]:
        found |= {one.folder: one for one in more}
        lost |= {one.fingerprint for one in more}
    return list(found.values())


def _unused(runs: Path, all_: Sequence[Entry], results: Sequence[Entry], rows: Sequence[Path]) -> None:
    """Raises UserError when a running stage makes or reads what is meant."""
    running = [one for one in all_ if one.state == "running"]
    read = {one.folder: read_json(one.folder / artifacts.JOB) or {} for one in running}
    for one in results:
        user = next((r for r in running if r.folder == one.folder or one.fingerprint in r.parents), None)
        if user:
            raise fail(str(one.folder), f"{user} is being made now", "Wait for it, or stop it.")
    for folder in rows:
        if in_use(runs, folder) or any(_same(job.get("rows"), folder) for job in read.values()):
            raise fail(str(folder), "these prepared rows are in use", "Wait for the run, or stop it.")


def _same(path: Any, folder: Path) -> bool:
    return isinstance(path, str) and Path(path).resolve() == folder.resolve()


def remove(runs: Path, what: Removal, force: bool = False) -> int:
    """Take it away; the bytes freed. Raises UserError while something rests on it (but not on `force`) or uses it.

    A folder is renamed first: killed in the middle, no half of a result is left where one is looked for.
    """
    if what.resting and not force:
        made = ", ".join(map(str, what.resting[:4])) + (", …" if len(what.resting) > 4 else "")
        raise fail(
            str(what.results[0].folder), f"other results were made from it: {made}", "Name these too, or --force."
        )
    trash = artifacts.cache_folder(runs) / "removed"
    trash.mkdir(parents=True, exist_ok=True)
    for folder in what.folders:
        try:
            with locked(runs, folder.name, wait=False):
                folder.rename(trash / f"{folder.name}.{os.getpid()}")
        except BlockingIOError:
            raise fail(str(folder), "it is in use", "Wait for the run, or stop it.") from None
    shutil.rmtree(trash)
    return sum(what.sizes.values())
