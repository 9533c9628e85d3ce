"""From a recipe's `data:` entry to rows: a local file, a folder of files or a data set of the Hub, read as a stream."""

from __future__ import annotations

import difflib
import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft.data.formats import FORMATS
from ft.data.formats.pictures import folder_digest, picture_files
from ft.data.sources.bytes import CHANGED, check_is_file
from ft.data.sources.files import (
    MIB,
    READERS,
    Reading,
    Report,
    SampleBy,
    is_split,
    refuse,
    rows_in,
    type_of,
    within_limit,
    without_absent,
)
from ft.data.sources.files import SourceRow as SourceRow
from ft.errors import Problem, fail
from ft.files import read_json, write_json
from ft.hub import hub_is_there, local_path

log = logging.getLogger(__name__)

TEXT = ".txt"
DECIDE = ("format", "columns", "weight", "rows")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Source:
    """Where rows come from and how many of them are taken."""

    path: str
    """A .jsonl, .json, .csv, .tsv, .parquet or .txt file (text also as .gz), a folder of them, or an id of the Hub."""
    format: str | None = None
    """How a row is written: messages, sharegpt, alpaca, …; told from the first row when left out."""
    split: str = "train"
    """Which part of a Hub data set, of a folder with files named by split, or of a .json file with a list of each."""
    name: str | None = None
    """Which configuration of a Hub data set."""
    revision: str | None = None
    """Which commit, branch or tag of a Hub data set; a commit makes a run repeatable."""
    streaming: bool = False
    """Read a Hub data set row by row as it comes, without a copy of it on this machine."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column names to theirs, dotted for nested ones: {prompt: meta.question}. What is mapped is renamed."""
    weight: float = 1.0
    """How often the good rows are taken: 0.5 is a seeded half of them, 2.5 all twice and a seeded half."""
    rows: int | None = None
    """At most so many good rows, a seeded choice from the whole source, made before `weight`."""
    group: str | None = None
    """Which part of the mixture the source belongs to; sources of one group are drawn from alike."""
    share: float | None = None
    """The group's part of all rows, from 0 to 1, written at one of its sources or at all: see `mixture.parts`."""

    sample_by: SampleBy = "line"
    """What of a .txt file is a row, by the name that `datasets` has for it: each line, each paragraph, or the file."""
    images: str | None = None
    """Rows have pictures, whose paths are below this folder; it is found from the folder of the file of rows. `.` where
    rows bring the bytes themselves."""
    max_row_mib: float = 4.0
    """Longest row, in MiB of text; a longer one is a bad row. A million tokens are about 4 MiB."""
    sha256: list[str] = field(default_factory=list)
    """What the file must hash to, or each file of the folder in name order; others are refused. A run fills it in."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty")
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"no format '{self.format}'. There are: {', '.join(FORMATS)}")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight}; it must be above 0")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows is {self.rows}; it must be at least 1")
        if not (math.isfinite(self.max_row_mib) and self.max_row_mib > 0):
            raise ValueError(f"max_row_mib is {self.max_row_mib}; it must be above 0")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it is a part of the mixture, above 0 and at most 1")
        if self.share is not None and not self.group:
            raise ValueError("a share belongs to a group. Write `group: NAME` too")


def picture_folder(source: Source) -> Path | None:
    """Where the source's pictures are looked for; None where it has none, or is of the Hub, whose rows bring bytes."""
    path = local_path(source.path)
    if source.images is None or path is None:
        return None
    path = path.expanduser()
    return (path if path.is_dir() else path.parent) / Path(source.images).expanduser()


def missing(source: Source, where: str) -> Problem | None:
    """The problem that a source which looks local is not there, with what is near it."""
    try:
        path = local_path(source.path)
        pictures = picture_folder(source)
        if pictures and path and path.exists() and not pictures.is_dir():
            return Problem(where, f"images: there is no folder {pictures}", "It is found from the rows' own folder.")
        if path is None or path.exists():
            return None
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, with a NUL, of an unknown user
        return Problem(where, f"'{source.path}' is no path: {getattr(error, 'strerror', None) or error}")
    what = f"no file or folder '{source.path}'"
    if not path.parent.is_dir():
        return Problem(where, what, f"There is no folder '{path.parent}' either.")
    siblings = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    if near:
        return Problem(where, what, f"Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?")
    names = ", ".join(siblings[:8]) + (", …" if len(siblings) > 8 else "")
    return Problem(where, what, f"In '{path.parent}' there are: {names}." if siblings else f"'{path.parent}' is empty.")


def read(source: Source, report: Report = refuse) -> Iterator[SourceRow]:
    """The rows of a source as they are written, one after the other.

    A row that cannot be read goes to `report` and reading goes on; by default the first one raises `UserError`, as
    does a source with no rows at all.
    """
    if local_path(source.path) is None:
        how = Reading(source.path, report, source.split, int(source.max_row_mib * MIB))
        yield from within_limit(hub(source), how)
        return
    files = _files(source)
    if source.sha256 and len(source.sha256) != len(files):
        raise fail(source.path, f"holds {len(files)} files where there were {len(source.sha256)}", CHANGED[1])
    hashes: list[str | None] = [*source.sha256] or [None] * len(files)
    for path, sha256 in zip(files, hashes, strict=True):
        most = int(source.max_row_mib * MIB)
        how = Reading(_as_written(source, path), report, source.split, most, sha256, source.sample_by)
        yield from rows_in(path, how)


def _as_written(source: Source, path: Path) -> str:
    whole = Path(source.path).expanduser()
    return source.path if path == whole else str(Path(source.path) / path.relative_to(whole))


def _files(source: Source) -> list[Path]:
    """The files of a local source in name order."""
    absent = missing(source, source.path)
    if absent:
        raise fail(source.path, "no such file or folder", absent.fix)
    path = Path(source.path).expanduser()
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "_")))
    files = [entry for entry in entries if type_of(entry) in READERS and entry.is_file()]
    # Beside rows a .txt file is a licence or a note
    files = [entry for entry in files if type_of(entry) != TEXT] or files
    if not files:
        raise fail(source.path, "the folder holds no file of rows", f"Known are: {', '.join(READERS)}.")
    chosen = _of_split(source, files)
    unknown = [entry.name for entry in entries if entry not in files and entry.suffix != ".md"]
    if unknown:
        log.warning("%s: not rows, left unread: %s", source.path, ", ".join(unknown))
    if chosen != files:
        log.info("%s: split %s is %s", source.path, source.split, ", ".join(path.name for path in chosen))
    return chosen


def _of_split(source: Source, files: list[Path]) -> list[Path]:
    """All files, or those of the split where the names tell splits apart: a test file is never trained on unasked."""
    splits = {path: _split(path) for path in files}
    if not any(splits.values()):
        return files
    chosen = [path for path in files if splits[path] == source.split]
    known = ", ".join(sorted({name for name in splits.values() if name}))
    if not chosen:
        raise fail(source.path, f"the folder has no file of split '{source.split}'", f"There are splits: {known}.")
    unclear = [path.name for path in files if not splits[path]]
    if unclear:
        what = f"{', '.join(unclear)} belongs to no split, but other files do ({known})"
        raise fail(source.path, what, "Name one file as path, or rename it.")
    return chosen


def _split(path: Path) -> str | None:
    stem = SHARD.sub("", path.name.lower().removesuffix(".gz").removesuffix(type_of(path)))
    return stem if is_split(stem) else None


def bytes_by_line(source: Source) -> int | None:
    """The size of a source that is one file, read line by line; None of others."""
    path = local_path(source.path)
    if path is None or not path.is_file() or type_of(path) not in (".jsonl", ".csv", ".tsv"):
        return None
    return path.stat().st_size


def hub(source: Source) -> Iterator[SourceRow]:
    """The rows of a Hub data set through `datasets`, memory-mapped; its code is never run."""
    online = hub_is_there()  # before what asks it again and again
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    part = ", ".join(filter(None, (source.name, source.split)))
    where = f"{source.path}[{part}]"
    try:
        how = {"name": source.name, "split": source.split, "revision": source.revision}
        how |= {"sample_by": source.sample_by} if source.sample_by != "line" else {}
        rows = load_dataset(source.path, **how, streaming=source.streaming)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        fix = "Check path, name, split and revision; a local path starts with ./"
        if not online:
            fix = "The Hub does not answer: download it once while it does. A local path starts with ./"
        raise fail(where, f"cannot be loaded: {reason}", fix) from error
    rows = _with_picture_bytes(rows) if source.images else rows
    number = 0
    for number, row in enumerate(rows, 1):
        yield SourceRow(f"{where}:{number}", without_absent(row))
    if not number:
        raise fail(where, "holds no rows")


def _with_picture_bytes(rows: Any) -> Any:
    """The data set with its pictures as the bytes they are, which `datasets` would decode and ft encode again."""
    from datasets import Image, List

    for name, feature in (rows.features or {}).items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            rows = rows.cast_column(name, List(Image(decode=False)))
    return rows


# Fingerprints


def fingerprint(source: Source, cache: Path | None) -> dict[str, Any]:
    """What decides a source's rows: bytes rather than names for local files, and everything else of the source.

    Hashes of files are remembered in the JSON file `cache`. A Hub data set is named, not hashed: without a commit as
    revision its rows may change under the same fingerprint.
    """
    how = asdict(source)
    for key in ("streaming", "max_row_mib", "sha256"):
        del how[key]  # the same rows, however they come
    mixture = {key: value for key in ("group", "share") if (value := how.pop(key)) is not None}
    if how["sample_by"] == "line":
        del how["sample_by"]  # what it was before there were others
    if how["images"] is None:
        del how["images"]  # the same
    elif folder := picture_folder(source):
        how["images"] = _pictures_hash(folder, cache)
    if local_path(source.path) is None:
        return how | mixture
    files = [[type_of(path), file_hash(path, cache)] for path in _files(source)]
    if source.sha256 and source.sha256 != [sha256 for _, sha256 in files]:
        raise fail(source.path, "is not the file that sha256 names", "Fetch it again, or write its own SHA-256.")
    return {"files": files} | {key: how[key] for key in (*DECIDE, "sample_by", "images") if key in how} | mixture


def file_hash(path: Path, cache: Path | None) -> str:
    """SHA-256 of a file's bytes, remembered in `cache` by path, size and time of change: gigabytes are read once."""
    check_is_file(path, str(path))

    def digest() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        state = path.stat()
        return _remembered(path, [state.st_size, state.st_mtime_ns], digest, cache)
    except OSError as error:
        raise fail(str(path), f"cannot be read: {error.strerror}") from error


def _pictures_hash(folder: Path, cache: Path | None) -> str:
    """What a folder's pictures are, remembered like a file's hash, by the path, size and time of each."""
    try:
        states = [(str(path), path.stat()) for path in picture_files(folder)]
        listed = repr([(path, state.st_size, state.st_mtime_ns) for path, state in states]).encode()
        stamp: list[int | str] = [len(states), hashlib.sha256(listed).hexdigest()]
        return _remembered(folder, stamp, lambda: folder_digest(folder), cache)
    except OSError as error:
        raise fail(str(folder), f"a picture cannot be read: {error.strerror}") from error


def _remembered(path: Path, stamp: list[int | str], make: Callable[[], str], cache: Path | None) -> str:
    """The digest of what stands at a path, made again where its stamp has changed."""
    name = str(path.resolve())
    known = read_json(cache) if cache else None
    known = known if isinstance(known, dict) else {}  # a torn cache is made again
    entry = known.get(name)
    if isinstance(entry, list) and entry[:2] == stamp and isinstance(entry[-1], str):
        return entry[-1]
    digest = make()
    if cache:
        with suppress(OSError):  # a folder that cannot be written to: hashed again next time
            write_json(cache, known | {name: [*stamp, digest]})
    return digest
