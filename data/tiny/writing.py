"""Row files that are the same bytes whenever a program writes them, and `--check`, which says whether they are."""

import argparse
import gzip
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Files = Mapping[str, Callable[[random.Random], Iterable[Row]]]
FOLDER = Path(__file__).parent
SEED = 1


def chance(name: str) -> random.Random:
    """The random numbers a file is made with."""
    return random.Random(f"{SEED} {name}")


def content(files: Files, name: str) -> bytes:
    """The bytes of one row file: always the same."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in files[name](chance(name)))
    raw = "".join(lines).encode()
    return packed(raw) if name.endswith(".gz") else raw


def packed(raw: bytes) -> bytes:
    """The bytes as .gz, the same from every Python: 3.13 no longer writes which system packed them, byte 9."""
    made = gzip.compress(raw, mtime=0)
    return made[:9] + b"\x03" + made[10:]


def main(files: Files, program: str) -> int:
    """Write every file, or with --check compare them."""
    parser = argparse.ArgumentParser(description="Write rows of the embedded world.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the files are as made")
    check = parser.parse_args().check
    differing = [name for name in files if not check or _read(name) != content(files, name)]
    for name in differing:
        if check:
            print(f"data/tiny/{name}: not as made. Run python data/tiny/{program}.")
        else:
            (FOLDER / name).write_bytes(content(files, name))
            print(f"data/tiny/{name}: {(FOLDER / name).stat().st_size:,} bytes")
    return int(check and bool(differing))


def _read(name: str) -> bytes | None:
    path = FOLDER / name
    return path.read_bytes() if path.exists() else None
