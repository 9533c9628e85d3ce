"""Frees space in a runs folder, when asked: results and prepared rows, never what is in use.

What was made from a result is named before it goes; a result that another finished one was made from stays unless
forced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft import artifacts
from ft.errors import fail
from ft.result import Result
from ft.results.ledger import entries, find_result, in_use, size, status
from ft.run.run import hold_lock


@dataclass(frozen=True)
class Removal:
    """What `ft runs rm` would take away: results and folders of prepared rows, with their sizes in bytes.

    dependents  finished results that were made from these, directly or over others
    """

    results: tuple[Result, ...]
    rows: tuple[Path, ...]
    sizes: Mapping[Path, int]
    dependents: tuple[Result, ...]

    @property
    def folders(self) -> list[Path]:
        return [*(one.folder for one in self.results), *self.rows]


def removal(runs: Path, words: Sequence[str], cache: bool = False, set_aside: bool = False) -> Removal:
    """What is meant, with everything to know before it goes. Raises UserError where a word names no result, or what is
    meant is in use."""
    existing = entries(runs)
    results = [find_result(existing, word, runs) for word in words]
    results += [result for result in existing if set_aside and result.set_aside]
    results = list({result.folder: result for result in results}.values())
    rows = artifacts.all_prepared_rows(runs) if cache else []
    _refuse_in_use(runs, existing, results, rows)
    folders = [*(result.folder for result in results), *rows]
    going = {result.folder for result in results}
    dependents = tuple(result for result in _dependents(existing, results) if result.folder not in going)
    return Removal(tuple(results), tuple(rows), {folder: size(folder) for folder in folders}, dependents)


def _dependents(existing: Sequence[Result], results: Sequence[Result]) -> list[Result]:
    """Finished results made from these; a result that is there twice, or set aside, is not the last of its kind."""
    finished = [result for result in existing if status(result) == "done"]
    going = {result.folder for result in results}
    staying = {result.fingerprint for result in finished if result.folder not in going}
    lost = {result.fingerprint for result in finished if result.folder in going} - staying
    dependents: dict[Path, Result] = {}
    while more := [result for result in finished if result.folder not in dependents and result.parents & lost]:
        dependents |= {result.folder: result for result in more}
        lost |= {result.fingerprint for result in more}
    return list(dependents.values())


def _refuse_in_use(runs: Path, existing: Sequence[Result], results: Sequence[Result], rows: Sequence[Path]) -> None:
    """Raises UserError when a running stage makes or reads what is meant."""
    running = [result for result in existing if status(result) == "running"]
    for result in results:
        user = next((r for r in running if r.folder == result.folder or result.fingerprint in r.parents), None)
        if user:
            raise fail(str(result.folder), f"{user} is being made now", "Wait for it, or stop it.")
    for folder in rows:
        if in_use(runs, folder) or any(_same(result.job.get("rows"), folder) for result in running):
            raise fail(str(folder), "these prepared rows are in use", "Wait for the run, or stop it.")


def _same(path: object, folder: Path) -> bool:
    return isinstance(path, str) and Path(path).resolve() == folder.resolve()


def remove(runs: Path, what: Removal, force: bool = False) -> int:
    """Take it away; the bytes freed.

    Raises UserError while it is in use, or, without `force`, while other results were made from it.

    A folder is renamed first: killed in the middle, no half of a result is left where one is looked for.
    """
    if what.dependents and not force:
        names = ", ".join(map(str, what.dependents[:4])) + (", …" if len(what.dependents) > 4 else "")
        raise fail(
            str(what.results[0].folder), f"other results were made from it: {names}", "Name these too, or --force."
        )
    trash = artifacts.cache_folder(runs) / "removed"
    trash.mkdir(parents=True, exist_ok=True)
    for folder in what.folders:
        try:
            with hold_lock(runs, folder.name, wait=False):
                folder.rename(trash / f"{folder.name}.{os.getpid()}")
        except BlockingIOError:
            raise fail(str(folder), "it is in use", "Wait for the run, or stop it.") from None
    shutil.rmtree(trash)
    return sum(what.sizes.values())
