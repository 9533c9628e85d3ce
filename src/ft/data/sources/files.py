"""The rows of one local file, each with its place in it. A row that cannot be read is reported; the next is read on.

To add a file type: one generator and one line in `READERS`. Memory stays flat: a reader holds a row, a batch of
`BATCH` rows (Parquet) or at most `JSON_BYTES` of text (a .json file, which has no lines to read one by one).
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ft.data.formats.fields import BadRow, kind_of
from ft.data.formats.messages import is_unicode
from ft.data.sources.bytes import BLANK, LongLine, lines, open_bytes, open_seekable
from ft.errors import UserError, fail

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000
MIB = 2**20
JSON_BYTES = 256 * MIB
REREAD = 64 * MIB
"""Characters of a CSV file that are read again at most, behind quotes that are not closed."""

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
"""File names that begin with one of these belong to a split, as the Hub reads a folder; so do lists of a .json file."""


class SourceRow(NamedTuple):
    """A row and where it stands: `x.jsonl:7`, `x.csv:7` (line), `x.json:7`, `x.parquet:7`, `hub/id[train]:7` (row)."""

    where: str
    row: dict[str, Any]


SampleBy = Literal["line", "paragraph", "document"]

Report = Callable[[str, object, BadRow], None]
"""Told of each row that is left out: where it stands, the row (or its text), what is wrong."""


def refuse(where: str, row: object, bad: BadRow) -> None:
    """The `Report` of someone who wants no bad row: the first one is an error."""
    raise fail(where, bad.what, bad.fix)


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    where   the path as the user wrote it
    report  told of rows that are left out
    split   which of several lists of a .json file
    limit   longest row, in bytes of text
    sha256  what the bytes must hash to; None: whatever they are
    sample_by  what of a .txt file is a row: see `Source`
    """

    where: str
    report: Report
    split: str
    limit: int
    sha256: str | None = None
    sample_by: SampleBy = "line"

    def too_long(self) -> BadRow:
        what = f"the row is longer than {self.limit / MIB:g} MiB"
        return BadRow(what, "If it is meant so, raise max_row_mib at its source.")


def rows_in(path: Path, how: Reading) -> Iterator[SourceRow]:
    """The rows of a file by its type."""
    reader = READERS.get(type_of(path))
    if reader is None:
        raise fail(how.where, "is of no known type", f"There are: {', '.join(READERS)}, and .gz of the text ones.")
    return reader(path, how)


def within_limit(rows: Iterable[SourceRow], how: Reading) -> Iterator[SourceRow]:
    """The rows that are no longer than one may be, for readers that do not go line by line."""
    for source_row in rows:
        if count_characters(source_row.row) > how.limit:
            how.report(source_row.where, None, how.too_long())
        else:
            yield source_row


def count_characters(value: object) -> int:
    """Of all strings in a row, however deep."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return sum(map(count_characters, value))


def without_absent(value: object, top: bool = True) -> Any:
    """A row without the keys that are null in objects inside of it: in a column of Arrow all objects have the keys of
    all, so an argument that a tool call does not have is null there. Columns themselves stay."""
    if isinstance(value, dict):
        return {key: without_absent(inner, False) for key, inner in value.items() if top or inner is not None}
    return [without_absent(inner, False) for inner in value] if isinstance(value, list) else value


def type_of(path: Path) -> str:
    """The suffix that decides how a file is read: ".jsonl" for x.jsonl and for x.jsonl.gz."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    packed_inside = kind == ".parquet"  # Parquet packs its own columns, and needs to seek
    return kind + ".gz" if packed_inside and path.suffix.lower() == ".gz" else kind


def _empty(where: str) -> UserError:
    return fail(where, "holds no rows")


def _not_utf8(error: UnicodeDecodeError) -> BadRow:
    return BadRow(
        f"byte {error.start + 1} of the line (0x{error.object[error.start]:02x}) is not UTF-8", "Save as UTF-8."
    )


# JSON


class DuplicateKey(ValueError):
    """A key that stands twice in an object: JSON would keep the last, and lose the first in silence."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKey(next(key for key in keys if keys.count(key) > 1))
    return found


_loads = json.JSONDecoder(object_pairs_hook=_object).decode


def _jsonl(path: Path, how: Reading) -> Iterator[SourceRow]:
    has_rows = False
    with open_bytes(path, how.where, how.sha256) as file:
        for number, line in enumerate(lines(file, how.where, how.limit), 1):
            where = f"{how.where}:{number}"
            if isinstance(line, LongLine):
                how.report(where, None, how.too_long())
                has_rows = True
                continue
            if line in BLANK:
                continue
            try:
                row = _loads(line.decode())
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                how.report(where, line.decode(errors="replace").rstrip("\r\n"), _unread(line, error))
            else:
                if type(row) is dict:
                    yield SourceRow(where, row)
                else:
                    how.report(where, row, _no_object(row))
            has_rows = True
    if not has_rows:
        raise _empty(how.where)


def _unread(line: bytes, error: Exception) -> BadRow:
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(error)
    if isinstance(error, DuplicateKey):
        return BadRow(f"the key '{error}' stands twice in an object", "Leave one of them.")
    fix = "A JSON array belongs in a .json file." if line.lstrip().startswith(b"[") else "Write one JSON object a line."
    if isinstance(error, json.JSONDecodeError):
        column = min(error.pos, len(line.decode().rstrip())) + 1  # at the end of the row, not after the line's end
        return BadRow(f"no JSON: {error.msg} at column {column}", fix)
    return BadRow(f"no JSON that can be read: {error}", fix)


def _no_object(row: object) -> BadRow:
    return BadRow(f"the row is {kind_of(row)}, not an object", 'Write {"column": value, …}.')


def _json(path: Path, how: Reading) -> Iterator[SourceRow]:
    """An array of rows, or an object that holds one list, or one of each split; loaded whole, so limited in size."""
    rows = _the_list(_json_value(path, how), how)
    if not rows:
        raise _empty(how.where)
    return within_limit(_objects(rows, how), how)


def _objects(rows: list[Any], how: Reading) -> Iterator[SourceRow]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield SourceRow(f"{how.where}:{number}", row)
        else:
            how.report(f"{how.where}:{number}", row, _no_object(row))


def _json_value(path: Path, how: Reading) -> Any:
    where = how.where
    with open_bytes(path, where, how.sha256) as file:
        data = file.read(JSON_BYTES + 1)
        if len(data) > JSON_BYTES:
            size = f"is over {JSON_BYTES // MIB} MiB, too much for one JSON text"
            raise fail(where, size, "Write one object a line and name it .jsonl.")
    if not data.strip():
        raise _empty(where)
    try:
        return _loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(f"{where}:{line}", f"byte 0x{data[error.start]:02x} is not UTF-8", "Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        fix = "One object a line? Then name it .jsonl." if error.msg == "Extra data" else ""
        raise fail(f"{where}:{error.lineno}", f"no JSON: {error.msg} at column {error.colno}", fix) from error
    except DuplicateKey as error:
        raise fail(where, f"the key '{error}' stands twice in an object", "Leave one of them.") from error
    except (ValueError, RecursionError) as error:
        raise fail(where, f"no JSON that can be read: {error}") from error


def _the_list(value: object, how: Reading) -> list[Any]:
    if isinstance(value, list):
        return value
    lists = {key: held for key, held in value.items() if isinstance(held, list)} if isinstance(value, dict) else {}
    splits = [key for key in lists if is_split(key)]
    if splits and how.split not in lists:
        what = f"holds rows of {', '.join(splits)}, and split is '{how.split}'"
        raise fail(how.where, what, f"Write `split: {splits[0]}` at its source, if these are meant.")
    if isinstance(value, dict) and {"images", "annotations"} <= lists.keys():
        return _of_annotations(value, how)
    if splits or len(lists) == 1:
        rows: list[Any] = lists[how.split] if splits else next(iter(lists.values()))
        return rows
    what = f"holds {kind_of(value)}" + (f" with {len(lists)} lists" if isinstance(value, dict) else "")
    raise fail(how.where, f"{what}, not a list of rows", "Write an array of rows, or one object a line as .jsonl.")


def _of_annotations(value: dict[str, Any], how: Reading) -> list[Any]:
    """The rows of a file of COCO's captions: each annotation with the `file_name` of its picture as `image`."""
    names = {one.get("id"): one.get("file_name") for one in value["images"] if isinstance(one, dict)}
    rows = [
        {**one, "image": names.get(one.get("image_id"))} if isinstance(one, dict) else one
        for one in value["annotations"]
    ]
    lost = [row for row in rows if isinstance(row, dict) and not row["image"]]
    if lost:
        first = lost[0].get("image_id")
        what = f"{len(lost):,} annotations name a picture that the file does not list, the first {first!r}"
        raise fail(how.where, what, "Take pictures and annotations from one file.")
    return rows


def is_split(name: str) -> bool:
    return re.split(r"[-_.]", name)[0] in SPLITS


# Text


def _txt(path: Path, how: Reading) -> Iterator[SourceRow]:
    """Documents of a text file: a line each, a paragraph each (empty lines part them), or the whole file."""
    where, size, has_rows = how.where, 0, False
    document: list[bytes] = []
    with open_bytes(path, how.where, how.sha256) as file:
        for number, line in enumerate(chain(lines(file, how.where, how.limit), [None]), 1):
            ends = line is None or how.sample_by == "line" or (how.sample_by == "paragraph" and line in BLANK)
            if line is not None and (document or line not in BLANK):
                where = where if document else f"{how.where}:{number}"
                size += len(line)
                if size <= how.limit or not document:  # of one that is too long the beginning is enough
                    document.append(line)
            if ends and document:
                has_rows = True
                if size > how.limit:
                    how.report(where, None, how.too_long())
                else:
                    yield from _document(where, b"".join(document), how)
                document, size = [], 0
    if not has_rows:
        raise _empty(how.where)


def _document(where: str, data: bytes, how: Reading) -> Iterator[SourceRow]:
    try:
        yield SourceRow(where, {"text": data.decode().strip("\r\n")})
    except UnicodeDecodeError:
        how.report(where, data.decode(errors="replace"), BadRow("the text is not UTF-8", "Save it as UTF-8."))


# Tables


def _csv(delimiter: str, path: Path, how: Reading) -> Iterator[SourceRow]:
    csv.field_size_limit(how.limit)
    with open_bytes(path, how.where, how.sha256) as file:
        text = _TextLines(lines(file, how.where, how.limit), how)
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        columns = _header(reader, delimiter, how.where)
        has_rows = False
        while True:
            where = text.begin_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                first = text.give_back()
                fix = "A quote may be open: cells with quotes double them."
                how.report(where, first.rstrip("\r\n"), BadRow(f"no CSV: {error}", fix))
                has_rows = True
                continue
            if cells is None:
                break
            if cells:
                has_rows = True
                bad = _bad_cells(cells, columns)
                if bad:
                    how.report(where, cells, bad)
                else:
                    yield SourceRow(where, dict(zip(columns, cells, strict=True)))
    if not has_rows:
        raise _empty(how.where)


class _TextLines:
    """Lines as text. What is no UTF-8 passes as surrogates, so that only its row is bad.

    A quote that is never closed swallows the lines behind it: they are given back and read as rows of their own, so
    that one slip costs one row.
    """

    def __init__(self, byte_lines: Iterator[bytes], how: Reading):
        self.lines, self.how = byte_lines, how
        self.pending: deque[str] = deque()
        self.row: list[str] = []
        self.number = self.reread_characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.pending.popleft() if self.pending else self._decode(next(self.lines))
        self.number += 1
        self.row.append(line)
        return line

    def _decode(self, line: bytes) -> str:
        if isinstance(line, LongLine):
            self.number += 1
            raise csv.Error(self.how.too_long().what)
        return line.decode("utf-8", "surrogateescape")

    def begin_row(self) -> str:
        self.row = []
        return f"{self.how.where}:{self.number + 1}"

    def give_back(self) -> str:
        """The first line of the row; the others are read again."""
        first, *others = self.row or [""]
        self.pending.extendleft(reversed(others))
        self.number -= len(others)
        self.reread_characters += sum(map(len, others))
        if self.reread_characters > REREAD:
            what = "many quotes before this line are not closed"
            raise fail(f"{self.how.where}:{self.number}", what, "Cells with quotes double them.")
        return first


def _header(reader: Iterator[list[str]], delimiter: str, where: str) -> list[str]:
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
    marks = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar"}
    found = next((mark for mark in marks if mark in columns[0] and mark != delimiter), None)
    if len(columns) == 1 and found:
        what = f"its one column is named '{columns[0]}', and {marks[found]} seems to part the cells"
        raise fail(f"{where}:1", what, f"Part them by {marks[delimiter]}: {_separator_help(delimiter)}.")
    _refuse_duplicates(columns, f"{where}:1")
    return columns


def _separator_help(delimiter: str) -> str:
    return ".csv is read by commas, .tsv by tabs" if delimiter == "," else ".tsv is read by tabs, .csv by commas"


def _refuse_duplicates(columns: list[str], where: str) -> None:
    counts = dict.fromkeys(columns, 0)
    for name in columns:
        counts[name] += 1
    duplicate = next((name for name, count in counts.items() if count > 1), None)
    if duplicate is not None:
        raise fail(where, f"two columns are named '{duplicate}'", "Rename one.")


def _bad_cells(cells: list[str], columns: list[str]) -> BadRow | None:
    if len(cells) != len(columns):
        return BadRow(f"{len(cells)} cells for {len(columns)} columns", "Quote cells that hold the separator.")
    for name, cell in zip(columns, cells, strict=True):
        if not cell.isascii() and not is_unicode(cell):
            return BadRow(f"column {name} is not UTF-8", "Save as UTF-8.")
    return None


def _parquet(path: Path, how: Reading) -> Iterator[SourceRow]:
    return within_limit(_parquet_rows(path, how), how)


def _parquet_rows(path: Path, how: Reading) -> Iterator[SourceRow]:
    import pyarrow
    from pyarrow import parquet

    where = how.where
    try:
        with open_seekable(path, where, how.sha256) as file, parquet.ParquetFile(file) as table:
            if not table.metadata.num_rows:
                raise _empty(where)
            _refuse_duplicates_in(table.schema_arrow, where)
            number = 0
            for batch in table.iter_batches(batch_size=BATCH):
                for row in _python_rows(batch):
                    number += 1
                    if isinstance(row, BadRow):
                        how.report(f"{where}:{number}", None, row)
                    else:
                        yield SourceRow(f"{where}:{number}", without_absent(row))
    except (pyarrow.ArrowException, OSError) as error:
        raise fail(where, f"is not whole Parquet: {str(error).splitlines()[0]}", "Write or fetch it again.") from error


def _python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of a batch, and what is wrong with those whose text is no text."""
    try:
        rows: list[dict[str, Any] | BadRow] = batch.to_pylist()
    except UnicodeDecodeError:  # pyarrow decodes as it converts, and does not say at which row
        rows = [_python_row(batch.slice(place, 1)) for place in range(batch.num_rows)]
    yield from rows


def _python_row(batch: pa.RecordBatch) -> dict[str, Any] | BadRow:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRow(f"a string of it holds 0x{error.object[error.start]:02x}, which is no UTF-8", "Write it anew.")
    return row


def _refuse_duplicates_in(fields: Iterable[pa.Field], where: str) -> None:
    """Two columns of one name, in the table or in an object inside of it: as a dict the row would lose the first."""
    import pyarrow

    fields = list(fields)
    _refuse_duplicates([field.name for field in fields], where)
    for field in fields:
        kind = field.type
        while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            kind = kind.value_type
        if pyarrow.types.is_struct(kind):
            _refuse_duplicates_in([kind.field(place) for place in range(kind.num_fields)], where)


READERS: dict[str, Callable[[Path, Reading], Iterator[SourceRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": partial(_csv, ","),
    ".tsv": partial(_csv, "\t"),
    ".parquet": _parquet,
    ".txt": _txt,
}
