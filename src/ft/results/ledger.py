"""What a runs folder holds: every result of every recipe, what it was made from, and what decided it.

Read from the results' own small files (`key.json`, `done.json`, `job.json`); no recipe and no library is needed.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal, TypeGuard

from ft import artifacts
from ft.errors import fail
from ft.recipe.find import is_recipe, recipe_file
from ft.recipe.merge import read_name
from ft.result import FOLDER_NAME, Result
from ft.results.store import differences

Status = Literal["done", "interrupted", "running", "set aside"]
LENGTH = 12  # characters of a fingerprint
SHORT = 8  # of them are shown


def entries(runs: Path) -> list[Result]:
    """Every result there, newest last: finished, interrupted and set aside."""
    folders = [folder for recipe in _folders(runs) for folder in _folders(recipe)]
    results = [Result(folder) for folder in folders if FOLDER_NAME.fullmatch(folder.name)]
    results = [result for result in results if result.key or result.done]  # else a folder of something else
    return sorted(results, key=lambda result: (result.timestamp, str(result.folder)))


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    with os.scandir(place) as inside:
        return sorted(Path(one.path) for one in inside if one.is_dir() and not one.name.startswith("."))


def status(result: Result) -> Status:
    """What a result of the ledger is now."""
    if result.set_aside:
        return "set aside"
    if result.done:
        return "done"
    return "running" if in_use(result.runs, result.folder) else "interrupted"


def in_use(runs: Path, folder: Path) -> bool:
    """Whether a command is making this result now."""
    lock = artifacts.lock_file(runs, folder.name)
    if not lock.exists():
        return False
    with lock.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def size(folder: Path) -> int:
    """Bytes of the files in a folder and below; a file with several names counts here whole."""
    total = 0
    with os.scandir(folder) as inside:
        for one in inside:
            if one.is_dir(follow_symlinks=False):
                total += size(Path(one.path))
            else:
                total += one.stat(follow_symlinks=False).st_size
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
