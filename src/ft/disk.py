"""What a disk refuses, in words: a full one, one that cannot be written to, a file where a folder is needed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from ft.errors import Problem

ROOM = "Make room, and give the same command again: it goes on from what is finished."
ELSEWHERE = "Allow it, or name another folder (`--runs DIR`)."
REFUSALS = {
    errno.ENOSPC: ("the disk is full", ROOM),
    errno.EDQUOT: ("the disk quota is used up", ROOM),
    errno.EFBIG: ("the file is larger than this system allows", "Raise the limit (`ulimit -f`), or use another disk."),
    errno.EROFS: ("the disk is read-only", ELSEWHERE),
    errno.EACCES: ("permission denied", ELSEWHERE),
    errno.EPERM: ("permission denied", ELSEWHERE),
    errno.EEXIST: ("something else stands where a folder is needed", "Move it away."),
    errno.ENOTDIR: ("a file stands where a folder is needed", "Move it away."),
    errno.EISDIR: ("a folder stands where a file is needed", "Move it away."),
    errno.ENOTEMPTY: ("a folder stands where a file is needed", "Move it away."),
    errno.ELOOP: ("the link leads back to itself", "Remove it."),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "Choose a shorter one."),
    errno.EIO: ("the disk reports an error", "Look at the disk, or name another folder (`--runs DIR`)."),
}
LEAST_FREE = 1 << 20  # bytes; with less, what a library could not write is put down to a full disk


def disk_problem(error: BaseException, folder: Path | None = None) -> Problem | None:
    """What the disk refused, where the error comes from that, also inside a library; None for any other error.

    `folder` is where was written to, for errors that name no file.
    """
    number = getattr(error, "errno", None) or _number_in(str(error))
    if number is None and folder and _is_about_writing(error) and _free_bytes(folder) < LEAST_FREE:
        number = errno.ENOSPC
    if number not in REFUSALS:
        return None
    names = (getattr(error, name, None) for name in ("filename2", "filename"))
    where = next((os.fsdecode(name) for name in names if isinstance(name, (str, bytes, os.PathLike))), None)
    what, fix = REFUSALS[number]
    return Problem(str(where or folder or "the disk"), what, fix)


def _number_in(text: str) -> int | None:
    """The error number that safetensors and Arrow write into their text."""
    match = re.search(r"(?:os error|errno) (\d+)", text)
    return int(match[1]) if match else None


def _is_about_writing(error: BaseException) -> bool:
    """PyTorch's writer says where in its own source it stopped, and not why."""
    return isinstance(error, RuntimeError) and ("inline_container" in str(error) or "PytorchStream" in str(error))


def _free_bytes(folder: Path) -> int:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return LEAST_FREE
    return disk.f_bavail * disk.f_frsize
