"""What a runs folder holds: every result of every recipe, what it was made from, and what decided it.

Read from the results' own small files (`key.json`, `done.json`, `job.json`); no recipe and no library is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeGuard

from ft import artifacts
from ft.errors import fail
from ft.recipe.find import is_recipe, recipe_file
from ft.recipe.merge import read_name
from ft.result import FOLDER_NAME, Result
from ft.results.locks import is_held
from ft.results.store import differences

Status = Literal["done", "interrupted", "running", "set aside", "broken"]
LENGTH = 12  # characters of a fingerprint
SHORT = 8  # of them are shown


def entries(runs: Path) -> list[Result]:
    """Every result there, newest last: finished, interrupted and set aside."""
    folders = [folder for recipe in _folders(runs) for folder in _folders(recipe)]
    results = [Result(folder) for folder in folders if FOLDER_NAME.fullmatch(folder.name)]
    results = [result for result in results if result.key or result.done or result.damage]  # else something else's
    return sorted(results, key=lambda result: (result.timestamp, str(result.folder)))


def _folders(place: Path) -> list[Path]:
    """The folders in a place, none where it cannot be read."""
    try:
        paths = sorted(place.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def status(result: Result) -> Status:
    """What a result of the ledger is now."""
    if result.set_aside:
        return "set aside"
    if is_held(artifacts.result_lock(result.runs, result.folder)):
        return "running"
    if result.done:
        return "done"
    return "broken" if result.damage else "interrupted"


def result_row(result: Result) -> dict[str, Any]:
    """What a list of results says of one, as plain values; `when` is local time, `seconds` None until it is done."""
    return {
        "recipe": result.recipe,
        "stage": result.stage,
        "kind": result.kind,
        "fingerprint": result.fingerprint,
        "state": status(result),
        "when": datetime.fromtimestamp(result.timestamp).isoformat(" ", "minutes"),
        "seconds": result.seconds,
        "folder": str(result.folder),
        "numbers": dict(result.numbers),
    }


def refuse_in_use(runs: Path, results: Sequence[Path], rows: Sequence[Path] = ()) -> None:
    """Raises UserError when a running stage makes or reads one of these results or prepared rows, by their folders."""
    running = [result for result in entries(runs) if status(result) == "running"]
    for folder in results:
        wanted = Result(folder).fingerprint
        user = next((r for r in running if r.folder == folder or wanted in r.parents), None)
        if user:
            raise fail(str(folder), f"{user} is being made now", "Wait for it, or stop it.")
    read = {Path(result.job["rows"]).resolve() for result in running if result.job.get("rows")}
    for folder in rows:
        if folder.resolve() in read or is_held(artifacts.lock_file(runs, folder.name)):
            raise fail(str(folder), "these prepared rows are in use", "Wait for the run, or stop it.")


def size(folder: Path) -> int:
    """Bytes of the files in a folder and below; a file with several names counts here whole, one that is gone or hidden
    not at all."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def find_result(results: Sequence[Result], word: str, runs: Path) -> Result:
    """The result meant by the beginning of its fingerprint, its folder, or RECIPE:STAGE (the newest finished one).

    Raises UserError where none or several are meant.
    """
    meant = _at_folder(results, Path(word)) or _of_recipe(results, word) or _by_beginning(results, word)
    if not meant:
        fix = f"`ft runs --runs {runs}` lists them; name a fingerprint, a folder or RECIPE:STAGE."
        raise fail(word, f"no such result in {runs}", fix)
    if len({result.folder for result in meant}) > 1:
        what = f"{len(meant)} results are meant: {', '.join(map(str, meant[:4]))}"
        raise fail(word, what, "Name one by its folder.")
    return meant[0]


def _at_folder(results: Sequence[Result], folder: Path) -> list[Result]:
    return [result for result in results if folder.exists() and result.folder.resolve() == folder.resolve()]


def _of_recipe(results: Sequence[Result], word: str) -> list[Result]:
    recipe, colon, stage = word.partition(":")
    if not colon:
        return []
    name = recipe_meant(recipe)
    meant = [result for result in results if (result.recipe, result.stage) == (name, stage)]
    return ([result for result in meant if status(result) == "done"] or meant)[-1:]


def _by_beginning(results: Sequence[Result], word: str) -> list[Result]:
    if not re.fullmatch(r"[0-9a-f]{3,12}(\.old-\d+)?", word):
        return []
    meant = [result for result in results if result.folder.name.endswith(f"-{word}") and len(word) >= LENGTH]
    meant = meant or [result for result in results if result.fingerprint.startswith(word)]
    return [result for result in meant if not result.set_aside] or meant


def recipe_meant(word: str) -> str:
    """The name of a recipe's results, given as that or as its file. Raises UserError for a file that is not there."""
    return read_name(recipe_file(word)) if is_recipe(word) else word


# What decided a difference


def compare_results(one: Result, other: Result, results: Sequence[Result]) -> list[tuple[str, object, object]]:
    """(key, here, there) of each value that differs, in full; where parents differ, what differs in these as well."""
    lines = []
    for key, here, there in differences(one.key, other.key):
        lines += _into_lists(key, here, there)
        mine, theirs = (_by_fingerprint(results, value) for value in (here, there))
        if mine and theirs and mine.fingerprint != theirs.fingerprint:
            lines += [(f"{key} › {inner}", a, b) for inner, a, b in compare_results(mine, theirs, results)]
    return lines


def _into_lists(key: str, here: object, there: object) -> list[tuple[str, object, object]]:
    """Lists of mappings (data sources) entry by entry."""
    if not (_is_list_of_mappings(here) and _is_list_of_mappings(there)):
        return [(key, here, there)]
    return [
        (f"{key}.{place}{'.' if inner else ''}{inner}", a, b)
        for place, (mine, theirs) in enumerate(zip_longest(here, there))
        for inner, a, b in differences(mine, theirs)
    ]


def _is_list_of_mappings(value: object) -> TypeGuard[list[Mapping[str, object]]]:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)


def _by_fingerprint(results: Sequence[Result], value: object) -> Result | None:
    if not isinstance(value, str):
        return None
    return next((result for result in reversed(results) if result.fingerprint == value), None)
