"""What a runs folder holds: every result of every recipe, what it was made from, and what decided it.

Read from the results' own small files (`key.json`, `done.json`, `job.json`); no recipe and no library is needed.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.errors import fail
from ft.files import read_json
from ft.recipe.merge import read_name
from ft.results.store import differences

State = Literal["done", "interrupted", "running", "set aside"]
NAME = re.compile(r"(?P<stage>[A-Za-z0-9][\w-]*)-(?P<fingerprint>[0-9a-f]{12})(?P<aside>\.old-\d+)?")
SHORT = 8  # characters of a fingerprint that are shown


@dataclass(frozen=True)
class Entry:
    """One result. `parents` are the fingerprints it was made from; `when` it ended (else: began), as a timestamp."""

    folder: Path
    recipe: str
    stage: str
    fingerprint: str
    kind: str
    state: State
    when: float
    seconds: float | None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    parents: frozenset[str] = frozenset()

    @property
    def key(self) -> Mapping[str, Any]:
        return read_json(self.folder / artifacts.KEY) or {}

    @property
    def ended(self) -> str:
        return datetime.fromtimestamp(self.when).isoformat(" ", "minutes")

    def __str__(self) -> str:
        return f"{self.recipe}:{self.stage} ({self.folder.name.removeprefix(self.stage + '-')})"


def entries(runs: Path) -> list[Entry]:
    """Every result there, newest last: finished, interrupted and set aside."""
    found = []
    for recipe in _folders(runs):
        for folder in _folders(recipe):
            named = NAME.fullmatch(folder.name)
            if named and (entry := _entry(runs, folder, named)):
                found.append(entry)
    return sorted(found, key=lambda one: (one.when, str(one.folder)))


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    with os.scandir(place) as inside:
        return sorted(Path(one.path) for one in inside if one.is_dir() and not one.name.startswith("."))


def _entry(runs: Path, folder: Path, named: re.Match[str]) -> Entry | None:
    key, done = read_json(folder / artifacts.KEY), read_json(folder / artifacts.DONE)
    if key is None and done is None:
        return None  # a folder of something else
    key, made = key or {}, done or {}
    newest = folder / (artifacts.DONE if done else artifacts.KEY)
    return Entry(
        folder=folder,
        recipe=folder.parent.name,
        stage=named["stage"],
        fingerprint=named["fingerprint"],
        kind=made.get("kind") or key.get("kind", "?"),
        state=_state(runs, folder, named, done is not None),
        when=newest.stat().st_mtime,
        seconds=made.get("seconds"),
        numbers=made.get("numbers", {}),
        parents=frozenset(_parents(key)),
    )


def _state(runs: Path, folder: Path, named: re.Match[str], done: bool) -> State:
    if named["aside"]:
        return "set aside"
    if done:
        return "done"
    return "running" if in_use(runs, folder) else "interrupted"


def _parents(key: Mapping[str, Any]) -> Iterator[str]:
    """The fingerprints that a key names where a stage's result can stand."""
    sources = [source for name in ("data", "eval_data") for source in key.get(name, [])]
    named = [key.get("init"), *key.get("inputs", {}).values(), *(source.get("path") for source in sources)]
    yield from (value for value in named if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{12}", value))


def in_use(runs: Path, folder: Path) -> bool:
    """Whether a command is making this result now."""
    lock = artifacts.lock_file(runs, folder.name)
    if not lock.exists():
        return False
    with lock.open() as file:
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


def named(all_: Sequence[Entry], word: str, runs: Path) -> Entry:
    """The result meant by the beginning of its fingerprint, its folder, or RECIPE:STAGE (the newest finished one).

    Raises UserError where none or several are meant.
    """
    folder = Path(word)
    found = [one for one in all_ if folder.exists() and one.folder.resolve() == folder.resolve()]
    recipe, colon, stage = word.partition(":")
    if not found and colon:
        found = [one for one in all_ if (one.recipe, one.stage) == (recipe_meant(recipe), stage)]
        found = ([one for one in found if one.state == "done"] or found)[-1:]
    if not found and re.fullmatch(r"[0-9a-f]{3,12}(\.old-\d+)?", word):
        found = [one for one in all_ if f"{one.fingerprint}{_aside(one)}" == word] or [
            one for one in all_ if one.fingerprint.startswith(word)
        ]
        found = [one for one in found if one.state != "set aside"] or found
    if not found:
        fix = f"`ft runs --runs {runs}` lists them; name a fingerprint, a folder or RECIPE:STAGE."
        raise fail(word, f"no such result in {runs}", fix)
    if len({one.folder for one in found}) > 1:
        raise fail(word, f"{len(found)} results are meant: {', '.join(map(str, found[:4]))}", "Name one by its folder.")
    return found[0]


def _aside(one: Entry) -> str:
    return one.folder.name.partition(".")[2] and "." + one.folder.name.partition(".")[2]


def recipe_meant(word: str) -> str:
    """A recipe's name, given as that or as its file. Raises UserError for a file that is not there."""
    return read_name(Path(word)) if word.endswith((".yaml", ".yml")) else word


# What decided a difference


def difference(one: Entry, other: Entry, all_: Sequence[Entry]) -> list[tuple[str, Any, Any]]:
    """(key, here, there) for each value that differs, in full; where parents differ, what differs in these as well."""
    found = []
    for key, here, there in differences(one.key, other.key):
        found += _into_lists(key, here, there)
        above, beside = (_by_fingerprint(all_, value) for value in (here, there))
        if above and beside and above.fingerprint != beside.fingerprint:
            found += [(f"{key} › {inner}", a, b) for inner, a, b in difference(above, beside, all_)]
    return found


def _into_lists(key: str, here: Any, there: Any) -> list[tuple[str, Any, Any]]:
    """Lists of mappings (data sources) entry by entry."""
    lists = all(isinstance(v, list) and all(isinstance(one, Mapping) for one in v) for v in (here, there))
    if not lists:
        return [(key, here, there)]
    longest = max(len(here), len(there))
    padded = [[*value, *[None] * (longest - len(value))] for value in (here, there)]
    return [
        (f"{key}.{place}{'.' if inner else ''}{inner}", a, b)
        for place, (mine, theirs) in enumerate(zip(*padded, strict=True))
        for inner, a, b in differences(mine, theirs)
    ]


def _by_fingerprint(all_: Sequence[Entry], value: Any) -> Entry | None:
    return next((one for one in reversed(all_) if one.fingerprint == value), None) if isinstance(value, str) else None
