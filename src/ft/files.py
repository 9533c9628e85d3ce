"""Files that are there whole or not at all, and the JSON in them.

Whoever writes a file or a folder that another process may read, or a kill may cut, writes it through `atomic` or one of
the functions that rest on it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

from ft.errors import fail


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A free place beside `path`, to write a file to or to make a folder at. It becomes `path` when the block ends, and
    goes when the block fails, so that a kill leaves the old file or the new one. What an earlier kill left goes too.

    Raises OSError, which names `path`, where it cannot be written or is a folder with something in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name)}.*"):
        if not is_alive(left.suffix[1:]):
            remove(left)
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # on the same disk, where a rename is one step
    remove(beside)
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise _naming(error, path) from error
    finally:
        remove(beside)


@contextmanager
def create(path: Path, fix: str) -> Iterator[Path]:
    """`atomic` for what nobody has made yet. Raises UserError with this `fix`, and leaves what is there, where it is
    there from the start or another command makes it meanwhile."""
    refuse_existing(path, fix)
    try:
        with atomic(path) as beside:
            yield beside
            if beside.is_file():
                os.link(beside, path)  # which never replaces another, as a rename does
    except OSError as error:
        if error.filename != str(path):
            raise
        refuse_existing(path, fix)
        if error.errno == errno.ENOENT:  # as under /proc
            raise fail(str(path), "nothing can be made in this folder", "Name another.") from None
        raise


def refuse_existing(path: Path, fix: str) -> None:
    """Raise UserError where there is anything else than an empty folder, which a rename replaces."""
    is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not is_empty:
        raise fail(str(path), "is there already", fix)


def is_alive(process: str) -> bool:
    """Whether a process of this number runs; what ends in no number is nobody's."""
    if not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _naming(error: OSError, path: Path) -> OSError:
    """The error with the file that was to be written, which a failed `write` does not name."""
    own = error.filename is None or Path(os.fsdecode(error.filename)).name.startswith(f".{path.name}.")
    return OSError(error.errno, error.strerror or str(error), str(path)) if own else error


def remove(path: Path) -> None:
    """Take away a file, a link or a folder with what is in it, as far as it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def free_name(path: Path, mark: str) -> Path:
    """The first of PATH{mark}1, PATH{mark}2, … that nothing has."""
    return next(free for n in count(1) if not os.path.lexists(free := path.with_name(f"{path.name}{mark}{n}")))


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """`durable`: on the disk when this returns, so that a loss of power leaves the old file or the new one."""
    with atomic(path) as beside:
        beside.write_text(text, encoding="utf-8")
        if durable:
            sync(beside)  # a rename may reach the disk before what was written into the file
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Wait until the files right in the folder are on the disk."""
    for file in folder.iterdir():
        if file.is_file():
            sync(file)


def write_json(path: Path, value: object, *, durable: bool = False) -> None:
    """Raises UserError where a number is NaN or infinite, which JSON has no words for and most readers refuse.

    `durable` is that of `write_text`.
    """
    _refuse_nan(value, path)
    write_text(path, json.dumps(value, indent=1, default=str, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """The file's value, or None when it is absent or was never finished by another program."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's mapping, empty where it is absent, broken or something else."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A file of JSON lines; `rows` are taken one after the other, so they may be more than memory holds."""
    with atomic(path) as beside, beside.open("w", encoding="utf-8") as out:
        out.writelines(json_line(row, path) for row in rows)


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines behind those of the file. A kill may cut the last one, which `read_lines` leaves out."""
    try:
        with path.open("a", encoding="utf-8") as out:
            out.writelines(json_line(row, path) for row in rows)
    except OSError as error:
        raise _naming(error, path) from error


def json_line(row: Mapping[str, Any], path: Path) -> str:
    """One line of the file `path`, newline and all. What JSON has no form for is a number of some library, as torch's
    are, or is written as text. Raises UserError where a number is NaN or infinite."""
    try:
        return json.dumps(row, default=_plain, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError:  # which names no key
        _refuse_nan(row, path)
        raise


def finite_or_none(value: object) -> object:
    """The value with None for every number in it that JSON cannot write: a step that fp16 skips, Parquet's absent."""
    if isinstance(value, Mapping):
        return {name: finite_or_none(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _refuse_nan(value: object, path: Path) -> None:
    """Raises UserError that names the first key whose number is NaN or infinite."""
    for key, number in floats(value, ""):
        if not isfinite(number):
            fix = "A run that diverged has such numbers; otherwise this is a fault of ft: an absent value is null."
            raise fail(f"{path}: {key or 'the value'}", f"is {number}, which is not JSON", fix)


def floats(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every float inside a value, with its keys joined by dots."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, (Mapping, list, tuple)):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from floats(inner, f"{key}.{name}" if key else str(name))


def _plain(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, none where it cannot be read; what a kill cut off at the end is left out, and
    lines that hold no row.

    A line ends with a newline and nothing else: texts may hold other separators, which str.splitlines would split at.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = []
    for line in text.split("\n"):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return [row for row in rows if isinstance(row, dict)]


def digest(value: object, length: int = 12) -> str:
    """A short name for a JSON value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:length]
