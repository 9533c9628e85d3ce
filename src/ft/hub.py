"""Whether a name means a file or folder of this machine, or a repository of the Hugging Face Hub.

Recipes, commands and results name models and data sets in one form, so one rule decides for all of them.
"""

from __future__ import annotations

import socket
import sys
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

HUB_TIMEOUT = 3.0  # seconds in which the Hub's host answers, if it does
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz")


def exists(path: Path) -> bool:
    """Whether something is at the path; nothing is at one that the file system takes for none (a name too long)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    return exists(path) and path.is_dir()


def expand(folder: Path, name: str) -> Path:
    """`name` from `folder`; `~` is the home of this user, and `~nobody` where nobody is called so only a name."""
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:
        return folder / name


def local_path(name: str, folder: Path = Path()) -> Path | None:
    """The file or folder that `name` means from `folder`, there or not; None for an id of the Hub.

    An id is `owner/name`, or `name` alone as in `gpt2`. What begins with `.`, `/` or `~`, has more slashes or the
    ending of a file of rows is a path, and so is whatever is there. Where `owner` is a folder, `owner/name` is a path
    too: if nothing is at it, it is a slip rather than an id.
    """
    path = expand(folder, name)
    written_so = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    written_so = written_so or name.lower().endswith(FILES)
    there = exists(path) or ("/" in name and is_folder(path.parent))
    return path if written_so or there else None


@lru_cache(maxsize=1)
def hub_is_there() -> bool:
    """Whether the Hub's host answers, asked once. Where it does not, its libraries read what they have on this machine:
    they would try again for the better part of a minute, file by file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True  # it may be reached through them only
    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=HUB_TIMEOUT).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
        if datasets := sys.modules.get("datasets.config"):  # it copies the constant as it is imported
            datasets.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        return False
    return True
