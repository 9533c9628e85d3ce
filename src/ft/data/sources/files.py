"""The rows of one local file, each with its place in it. A row that cannot be read is reported; the next is read on.

To add a file type: one generator and one line in `READERS`. Memory stays flat: a reader holds a row, a batch of
`BATCH` rows (Parquet) or at most `JSON_BYTES` of text (a .json file, which has no lines to read one by one).
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from ft.data.formats.fields import BadRow, kind_of
from ft.data.formats.messages import is_unicode
from ft.errors import UserError, fail

BATCH = 1000
JSON_BYTES = 256 * 2**20
CELL_CHARACTERS = 16 * 2**20
"""Where a CSV cell is taken for a quote that was never closed, before it swallows the rest of a large file."""


class SourceRow(NamedTuple):
    """A row and where it stands: `x.jsonl:7`, `x.csv:7` (line), `x.json:7`, `x.parquet:7`, `hub/id[train]:7` (row)."""

    where: str
    row: dict[str, Any]


Report = Callable[[str, Any, BadRow], None]
"""Told of each row that is left out: where it stands, the row (or its text), what is wrong."""


def refuse(where: str, row: Any, bad: BadRow) -> None:
    """The `Report` of someone who wants no bad row: the first one is an error."""
    raise fail(where, bad.what, bad.fix)


def rows_in(path: Path, where: str, report: Report) -> Iterator[SourceRow]:
    """The rows of a file by its type; `where` is the path as the user wrote it."""
    reader = READERS.get(type_of(path))
    if reader is None:
        raise fail(where, "is of no known type", f"There are: {', '.join(READERS)}, and .gz of the text ones.")
    return reader(path, where, report)


def type_of(path: Path) -> str:
    """The suffix that decides how a file is read: ".jsonl" for x.jsonl and for x.jsonl.gz."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    packed_inside = kind == ".parquet"  # Parquet packs its own columns, and needs to seek
    return kind + ".gz" if packed_inside and path.suffix.lower() == ".gz" else kind


# Bytes


@contextmanager
def _open(path: Path, where: str) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where its name ends in .gz."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise fail(where, f"cannot be opened: {error.strerror}") from error
    with file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        try:
            # GzipFile's own lines go through Python; the buffer's do not
            yield cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=file)))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise fail(where, f"is not a whole gzip file: {error}", "Pack or fetch it again.") from error


def _lines(file: BinaryIO, where: str) -> Iterator[bytes]:
    first = file.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise fail(where, "is UTF-16 text", "Save it as UTF-8.")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from file


def _empty(where: str) -> UserError:
    return fail(where, "holds no rows")


def _not_utf8(error: UnicodeDecodeError) -> BadRow:
    return BadRow(
        f"byte {error.start + 1} of the line (0x{error.object[error.start]:02x}) is not UTF-8", "Save as UTF-8."
    )


# JSON


def _jsonl(path: Path, where: str, report: Report) -> Iterator[SourceRow]:
    loads = json.loads
    has_rows = False
    with _open(path, where) as file:
        for number, line in enumerate(_lines(file, where), 1):
            try:
                row = loads(line.decode())
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                report(f"{where}:{number}", line.decode(errors="replace").rstrip("\r\n"), _unread(line, error))
            else:
                if type(row) is dict:
                    yield SourceRow(f"{where}:{number}", row)
                else:
                    report(f"{where}:{number}", row, _no_object(row))
            has_rows = True
    if not has_rows:
        raise _empty(where)


def _unread(line: bytes, error: Exception) -> BadRow:
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(error)
    fix = "A JSON array belongs in a .json file." if line.lstrip().startswith(b"[") else "Write one JSON object a line."
    if isinstance(error, json.JSONDecodeError):
        column = min(error.pos, len(line.decode().rstrip())) + 1  # at the end of the row, not after the line's end
        return BadRow(f"no JSON: {error.msg} at column {column}", fix)
    return BadRow(f"no JSON that can be read: {error}", fix)


def _no_object(row: Any) -> BadRow:
    return BadRow(f"the row is {kind_of(row)}, not an object", 'Write {"column": value, …}.')


def _json(path: Path, where: str, report: Report) -> Iterator[SourceRow]:
    """An array of rows, or an object that holds one list; loaded whole, so limited in size."""
    rows = _the_list(_json_value(path, where), where)
    if not rows:
        raise _empty(where)
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield SourceRow(f"{where}:{number}", row)
        else:
            report(f"{where}:{number}", row, _no_object(row))


def _json_value(path: Path, where: str) -> Any:
    with _open(path, where) as file:
        data = file.read(JSON_BYTES + 1)
    if len(data) > JSON_BYTES:
        size = f"is over {JSON_BYTES // 2**20} MiB, too much for one JSON text"
        raise fail(where, size, "Write one object a line and name it .jsonl.")
    if not data.strip():
        raise _empty(where)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(f"{where}:{line}", f"byte 0x{data[error.start]:02x} is not UTF-8", "Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        fix = "One object a line? Then name it .jsonl." if error.msg == "Extra data" else ""
        raise fail(f"{where}:{error.lineno}", f"no JSON: {error.msg} at column {error.colno}", fix) from error
    except (ValueError, RecursionError) as error:
        raise fail(where, f"no JSON that can be read: {error}") from error


def _the_list(value: Any, where: str) -> list[Any]:
    if isinstance(value, list):
        return value
    lists = [key for key, content in value.items() if isinstance(content, list)] if isinstance(value, dict) else []
    if len(lists) == 1:
        rows: list[Any] = value[lists[0]]
        return rows
    what = f"holds {kind_of(value)}" + (f" with {len(lists)} lists" if isinstance(value, dict) else "")
    raise fail(where, f"{what}, not a list of rows", "Write an array of rows, or one object a line as .jsonl.")


# Tables


def _csv(delimiter: str, path: Path, where: str, report: Report) -> Iterator[SourceRow]:
    csv.field_size_limit(CELL_CHARACTERS)
    with _open(path, where) as file:
        pending: list[str] = []  # the text of the row being parsed
        reader = csv.reader(_decode_lines(_lines(file, where), pending), delimiter=delimiter, strict=True)
        columns = _header(reader, where)
        has_rows = False
        while True:
            place = f"{where}:{reader.line_num + 1}"
            pending.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                fix = "A quote may be open: cells with quotes double them."
                report(place, "".join(pending).rstrip("\r\n"), BadRow(f"no CSV: {error}", fix))
                has_rows = True
                continue
            if cells is None:
                break
            if cells:
                has_rows = True
                bad = _bad_cells(cells, columns)
                if bad:
                    report(place, cells, bad)
                else:
                    yield SourceRow(place, dict(zip(columns, cells, strict=True)))
    if not has_rows:
        raise _empty(where)


def _decode_lines(lines: Iterator[bytes], pending: list[str]) -> Iterator[str]:
    """Lines as text, each also added to `since`. What is no UTF-8 passes as surrogates, so only its row is bad."""
    for line in lines:
        text = line.decode("utf-8", "surrogateescape")
        pending.append(text)
        yield text


def _header(reader: Iterator[list[str]], where: str) -> list[str]:
    try:
        columns = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise fail(f"{where}:1", f"no CSV: {error}", "The first line names the columns.") from error
    if not columns:
        raise _empty(where)
    for number, name in enumerate(columns, 1):
        if not is_unicode(name):
            raise fail(f"{where}:1", f"the name of column {number} is not UTF-8", "Save the file as UTF-8.")
        if not name.strip():
            raise fail(f"{where}:1", f"column {number} has no name", "The first line names the columns.")
        if name in columns[: number - 1]:
            raise fail(f"{where}:1", f"two columns are named '{name}'", "Rename one.")
    return columns


def _bad_cells(cells: list[str], columns: list[str]) -> BadRow | None:
    if len(cells) != len(columns):
        return BadRow(f"{len(cells)} cells for {len(columns)} columns", "Quote cells that hold the separator.")
    for name, cell in zip(columns, cells, strict=True):
        if not cell.isascii() and not is_unicode(cell):
            return BadRow(f"column {name} is not UTF-8", "Save as UTF-8.")
    return None


def _parquet(path: Path, where: str, report: Report) -> Iterator[SourceRow]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise _empty(where)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield SourceRow(f"{where}:{number}", row)
    except (pyarrow.ArrowException, OSError) as error:
        raise fail(where, f"is not whole Parquet: {str(error).splitlines()[0]}", "Write or fetch it again.") from error


READERS: dict[str, Callable[[Path, str, Report], Iterator[SourceRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_csv, ","),
    ".tsv": partial(_csv, "\t"),
    ".parquet": _parquet,
}
