"""A file's bytes and lines, in bounded time and memory, and proven to be those that the plan has hashed.

What a file may be is decided here: no pipe or device, no gzip bomb, no line without end.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from ft.errors import fail

CHUNK = 2**15
BLANK = (b"\n", b"\r\n", b"")
BLANK_LINES = 1_000_000  # in a row; more are damage, or meant to cost time
UNPACKED, RATIO = 2**30, 200  # text packs to a third or a tenth; a gzip file of 1 GiB of one byte, to a thousandth
CHANGED = "changed after the plan was made from it", "The same command plans again."


def check_is_file(path: Path, where: str) -> None:
    """UserError for what would be read for ever, or can be read once only: a plan reads every file twice."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise fail(where, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise fail(where, "is no file but a folder, a pipe or a device", "Write its rows to a file.")


@contextmanager
def open_bytes(path: Path, where: str, sha256: str | None = None) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where its name ends in .gz. UserError at the end where they are not those of `sha256`,
    so that rows read from a file that changed never count as those it had."""
    check_is_file(path, where)
    try:
        raw = path.open("rb", buffering=0)
    except OSError as error:
        raise fail(where, f"cannot be opened: {error.strerror}") from error
    with raw:
        packed = HashingReader(raw)
        file = cast(BinaryIO, io.BufferedReader(packed, CHUNK))
        if path.suffix.lower() == ".gz":
            try:
                yield cast(BinaryIO, io.BufferedReader(UnpackingReader(file, packed, where), CHUNK))
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise fail(where, f"is not a whole gzip file: {error}", "Pack or fetch it again.") from error
        else:
            yield file
        while file.read(CHUNK):
            continue  # what a reader leaves belongs to the hash too
        if sha256 and packed.digest.hexdigest() != sha256:
            raise fail(where, *CHANGED)


@contextmanager
def open_seekable(path: Path, where: str, sha256: str | None = None) -> Iterator[BinaryIO]:
    """The same for readers that jump: hashed before, and unchanged in size and time after."""
    check_is_file(path, where)
    try:
        file = path.open("rb")
    except OSError as error:
        raise fail(where, f"cannot be opened: {error.strerror}") from error
    with file:
        before = _stamp(file)
        if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise fail(where, *CHANGED)
        file.seek(0)
        yield file
        if sha256 and _stamp(file) != before:
            raise fail(where, *CHANGED)


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


class Meter:
    """How many bytes of files this process has read, which tells how far it has come with them."""

    count = 0


METER = Meter()


class HashingReader(io.RawIOBase):
    """Bytes that are hashed as they pass, so that a file is read once."""

    def __init__(self, raw: io.FileIO):
        self.raw, self.digest, self.count = raw, hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self.raw.readinto(buffer) or 0
        self.digest.update(buffer[:count])
        self.count += count
        METER.count += count
        return count


class UnpackingReader(io.RawIOBase):
    """What a gzip file holds, as long as it is in some proportion to the file."""

    def __init__(self, file: BinaryIO, packed: HashingReader, where: str):
        self.gzip, self.packed, self.where, self.count = gzip.GzipFile(fileobj=file), packed, where, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.gzip.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        if self.count > UNPACKED and self.count > RATIO * self.packed.count:
            what = f"unpacks to over {UNPACKED // 2**30} GiB, more than {RATIO} times its size"
            raise fail(self.where, what, "If it is meant so, unpack it.")
        return len(data)


class LongLine(bytes):
    """The beginning of a line that is longer than it may be; the rest was passed over."""


def lines(file: BinaryIO, where: str, limit: int) -> Iterator[bytes]:
    """The lines of a text, without a byte order mark; of one longer than `limit` bytes its beginning, as a LongLine."""
    line = file.readline(limit + 1)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise fail(where, "is UTF-16 text", "Save it as UTF-8.")
    line = line.removeprefix(codecs.BOM_UTF8)
    number = blank = 0
    while line or not number:
        number += 1
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := file.readline(CHUNK)) and not rest.endswith(b"\n"):
                continue
            line = LongLine(line)
        blank = blank + 1 if line in BLANK else 0
        if blank > BLANK_LINES:
            raise fail(f"{where}:{number}", f"{BLANK_LINES:,} empty lines stand in a row", "Take them out.")
        yield line
        line = file.readline(limit + 1)
