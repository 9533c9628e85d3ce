"""Frees space in a runs folder, when asked: results and prepared rows, never what is in use.

What was made from a result is named before it goes; a result that another finished one was made from stays unless
forced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft import artifacts
from ft.errors import fail
from ft.files import is_alive
from ft.files import remove as remove_files
from ft.result import Result
from ft.results.ledger import entries, find_result, refuse_in_use, size, status
from ft.results.locks import hold_lock


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
    folders = [*(result.folder for result in results), *rows]
    refuse_in_use(runs, [result.folder for result in results], rows)
    dependents = tuple(result for result in _dependents(existing, results) if result.folder not in folders)
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


def remove(runs: Path, removal: Removal, force: bool = False) -> int:
    """Take it away; the bytes freed, of what another command has not taken away meanwhile.

    Raises UserError while it is in use, or, without `force`, while other results were made from it.
    """
    if removal.dependents and not force:
        names = ", ".join(map(str, removal.dependents[:4])) + (", …" if len(removal.dependents) > 4 else "")
        where = str(removal.results[0].folder)
        raise fail(where, f"other results were made from it: {names}", "Name these too, or --force.")
    locks = {result.folder: artifacts.result_lock(runs, result.folder) for result in removal.results}
    locks |= {folder: artifacts.lock_file(runs, folder.name) for folder in removal.rows}
    return sum(removal.sizes[folder] for folder, lock in locks.items() if _remove(runs, folder, lock))


def _remove(runs: Path, folder: Path, lock: Path) -> bool:
    """Whether the folder was there to be taken away. It is renamed first: killed in the middle, no half of a result is
    left where one is looked for."""
    trash = artifacts.cache_folder(runs) / ".removed"
    for left in trash.parent.glob(f"{trash.name}-*"):  # by a command that was killed
        if not is_alive(left.suffix[1:]):
            remove_files(left)
    place = Path(f"{trash}-{folder.parent.name}-{folder.name}.{os.getpid()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(lock, wait=False):
            folder.rename(place)
    except BlockingIOError:
        raise fail(str(folder), "it is in use", "Wait for the run, or stop it.") from None
    except FileNotFoundError:  # another command was faster
        return False
    remove_files(place)
    return True
