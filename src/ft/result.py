"""A result: the folder of one stage, and what its own small files say of it.

Everybody who asks a folder whether it is finished, what it was made from or what came of it, asks a `Result`. Files are
read when they are first asked for and then remembered; make a new `Result` to look again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from os.path import lexists
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.bounds import is_at_least
from ft.files import read_mapping

State = Literal["absent", "unfinished", "done"]
FOLDER_NAME = re.compile(r"(?P<stage>[A-Za-z0-9][\w-]*)-(?P<fingerprint>[0-9a-f]{12})(?P<aside>\.old-\d+)?")
FINGERPRINT = re.compile(r"[0-9a-f]{12}")


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, types) and not isinstance(value, bool))


def _mapping_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, dict) and all(map(fits, value.values())))


def _is_list_of_mappings(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, dict) for one in value))


def _is_job_sources(value: Any) -> bool:
    return _is_list_of_mappings(value) and all(isinstance(one.get("path"), str) for one in value or ())


_NUMBER = _is(int, float)
FORMS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    artifacts.JOB: {
        **dict.fromkeys(("name", "kind", "fingerprint", "init", "rows"), _is(str)),
        **dict.fromkeys(("data", "eval_data"), _is_job_sources),
        "inputs": _mapping_of(_is(str)),
        "require": _mapping_of(_NUMBER),
        "blocks": _mapping_of(_is(dict)),
        "model": lambda value: _is(dict)(value) and isinstance((value or {}).get("path", ""), str),
    },
    artifacts.DONE: {
        **dict.fromkeys(("stage", "kind", "fingerprint", "device"), _is(str)),
        **dict.fromkeys(("numbers", "versions"), _is(dict)),
        **dict.fromkeys(("seconds", "processes"), lambda value: _NUMBER(value) and 0 <= (value or 0) < 1e12),
    },
    artifacts.KEY: {
        "kind": _is(str),
        **dict.fromkeys(("data", "eval_data"), _is_list_of_mappings),  # a local source is named by its bytes
        "inputs": _is(dict),
    },
}
"""File → what the values of its keys are like, as far as anybody reads them. One that is not so was edited or damaged:
it counts as absent, and `Result.damage` names it."""


def read_stats(rows: Path) -> dict[str, Any]:
    """The counts of a folder of prepared rows; none where they are absent, broken, or not those that are written."""
    stats = read_mapping(rows / artifacts.STATS)
    train = stats.get("train")
    counts = ("rows", "trainer_rows", "tokens", "trained_tokens")
    return stats if isinstance(train, dict) and all(isinstance(train.get(name), int) for name in counts) else {}


@dataclass(frozen=True)
class Result:
    """A stage's folder `runs/RECIPE/STAGE-FINGERPRINT`, in whatever state; `STAGE-FINGERPRINT.old-1` was set aside.

    Nothing raises: a file that is absent or broken has no values.
    """

    folder: Path

    @cached_property
    def key(self) -> Mapping[str, Any]:
        """What decides the result, as JSON."""
        return self._read(artifacts.KEY)

    @cached_property
    def job(self) -> Mapping[str, Any]:
        """What the stage's process was given."""
        return self._read(artifacts.JOB)

    @cached_property
    def done(self) -> Mapping[str, Any]:
        """What the finished stage left; empty until then. A file without numbers is none that a stage has written."""
        values = self._read(artifacts.DONE)
        return values if isinstance(values.get("numbers"), dict) else {}

    def _read(self, name: str) -> dict[str, Any]:
        values, form = read_mapping(self.folder / name), FORMS[name]
        return {key: value for key, value in values.items() if key not in form or form[key](value)}

    @property
    def damage(self) -> list[str]:
        """'job.json' for a file that cannot be read, 'job.json: inputs' for a value that no stage has written so."""
        return [where for name in FORMS if lexists(self.folder / name) for where in self._damage_in(name)]

    def _damage_in(self, name: str) -> list[str]:
        values = read_mapping(self.folder / name)
        if not values or (name == artifacts.DONE and not self.done):
            return [name]
        return [f"{name}: {key}" for key in values if key not in self._read(name)]

    @property
    def state(self) -> State:
        if self.done:
            return "done"
        return "unfinished" if self.folder.exists() else "absent"

    # What it is

    @property
    def _name(self) -> re.Match[str] | None:
        return FOLDER_NAME.fullmatch(self.folder.name)

    @property
    def stage(self) -> str:
        """The stage's name: by the folder's, or, where that was renamed, as the files have it."""
        if self._name:
            return self._name["stage"]
        return str(self.done.get("stage") or self.job.get("name") or self.folder.name)

    @property
    def fingerprint(self) -> str:
        if self._name:
            return self._name["fingerprint"]
        return str(self.done.get("fingerprint") or self.job.get("fingerprint", ""))

    @property
    def kind(self) -> str:
        return str(self.done.get("kind") or self.key.get("kind") or self.job.get("kind") or "?")

    @property
    def recipe(self) -> str:
        """The name of the recipe that made it."""
        return self.folder.absolute().parent.name

    @property
    def runs(self) -> Path:
        return artifacts.runs_folder(self.folder)

    @property
    def set_aside(self) -> bool:
        """Whether `--force` has renamed it."""
        return bool(self._name and self._name["aside"])

    # What it was made from

    @property
    def blocks(self) -> Mapping[str, Mapping[str, Any]]:
        return self.job.get("blocks") or {}

    @property
    def init(self) -> Path | None:
        """The folder of the stage it started from."""
        return Path(self.job["init"]) if self.job.get("init") else None

    @property
    def parents(self) -> frozenset[str]:
        """Fingerprints of the results it was made from."""
        return frozenset(self._parents())

    def _parents(self) -> Iterator[str]:
        """The fingerprints that a key names where a stage's result can stand."""
        sources = [source for name in ("data", "eval_data") for source in self.key.get(name, [])]
        values = [self.key.get("init"), *self.key.get("inputs", {}).values()]
        values += [source.get("path") for source in sources]
        yield from (value for value in values if isinstance(value, str) and FINGERPRINT.fullmatch(value))

    @property
    def prepared(self) -> Mapping[str, Any]:
        """Counts of the rows that were prepared for it, where they still are."""
        return read_stats(Path(self.job["rows"])) if self.job.get("rows") else {}

    # What came of it

    @property
    def numbers(self) -> Mapping[str, Any]:
        return self.done.get("numbers", {})

    @property
    def seconds(self) -> float | None:
        return self.done.get("seconds")

    @property
    def device(self) -> str:
        return str(self.done.get("device", "an unnamed device"))

    @property
    def processes(self) -> int:
        return int(self.done.get("processes", 1))

    @property
    def checkpoints(self) -> list[Path]:
        return artifacts.checkpoints(self.folder / artifacts.CHECKPOINTS)

    @property
    def timestamp(self) -> float:
        """When it ended, else when it began, in seconds since 1970; 0 where nothing is there."""
        for name in (artifacts.DONE, artifacts.KEY) if self.done else (artifacts.KEY,):
            with suppress(OSError):
                return (self.folder / name).stat().st_mtime
        return 0.0

    @property
    def finished(self) -> str:
        """'2026-11-22 12:40 UTC', or nothing."""
        return datetime.fromtimestamp(self.timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC") if self.done else ""

    def unmet(self, require: Mapping[str, float]) -> dict[str, Any]:
        """The metrics that are below what `require:` asks for, or absent, with their values."""
        values = {name: self.numbers.get(name) for name in require} if self.done else {}
        return {name: value for name, value in values.items() if not is_at_least(value, require[name])}

    def __str__(self) -> str:
        return f"{self.recipe}:{self.stage} ({self.folder.name.removeprefix(self.stage + '-')})"
