"""Looks for secrets where they may be written: values on their way to a file, rows, and the files of a result."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ft import artifacts
from ft.errors import Problem, Problems
from ft.files import read_json, write_text
from ft.secrets import Secret, find, hide, key_variables, look, variables

LINE = 1 << 20  # of a longer line only the first characters are read
TEXT = {
    *(".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".html", ".csv", ".tsv", ".jinja", ".py", ".toml", ".cfg"),
    *(".ini", ".env", ".sh", ".log", ".svg", ".gz", ""),
}
MARKS = re.compile(r"<[^<>]*>")  # in a page of rows they part the characters of a token
VOCABULARY = (artifacts.TOKENIZER, "vocab.json", "merges.txt")  # every word there is, and large
ROWS = (artifacts.ROWS, artifacts.REJECTS, artifacts.ANSWERS, artifacts.SAMPLES)
"""Files of a result that hold the user's rows and a model's answers: a token there is told of, and not refused."""


def refuse(where: str, value: object) -> None:
    """Raise UserError when a plain value or a text that is about to be written holds a secret."""
    problems = Problems()
    for key, one in look(value, values=variables(list(key_variables(value)))):
        problems.add(where, f"{key + ' ' if key else ''}holds {one}", FIX)
    problems.raise_any()


FIX = "Nothing was written. Take it out; tokens are read from the environment only."


# Rows


class RowWatch:
    """Rows that hold a secret. They are the user's own, and what they say is trained on as it is; the user is told."""

    MOST_NAMED = 3

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []
        self.held = variables()

    def add(self, where: str, row: object) -> None:
        secret = next(iter(find("\n".join(texts_in(row)), self.held)), None)
        if secret:
            self.count += 1
            if len(self.first) < self.MOST_NAMED:
                self.first.append(f"{where} holds {secret}")

    @property
    def notes(self) -> list[str]:
        """One line for the user, or none."""
        if not self.count:
            return []
        more = f", and {self.count - len(self.first):,} rows more" if self.count > len(self.first) else ""
        return [f"{'; '.join(self.first)}{more}. A model learns what it is shown: take it out, or make a new one."]


def texts_in(value: object) -> Iterator[str]:
    """Every text of a row, however deep it stands."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


# Files


def scan(file: Path, values: Mapping[str, str] | None = None) -> Iterator[tuple[int, Secret]]:
    """(line, secret) of a text file, also one packed with gzip; nothing of a file that is no text."""
    values = variables() if values is None else values
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8", errors="strict") as lines:
            for number, line in enumerate(lines, 1):
                part = line[:LINE]
                without_marks = MARKS.sub("", part) if file.suffix == ".html" else part
                yield from ((number, one) for one in find(part, values) or find(without_marks, values))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
        return


def files_below(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that may hold text in these files and folders, in order; links and packages are not followed."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for folder, inside, names in os.walk(path):
            inside[:] = sorted(name for name in inside if name not in (".git", ".venv", "__pycache__", "node_modules"))
            texts = (name for name in sorted(names) if Path(name).suffix in TEXT and name not in VOCABULARY)
            files = (Path(folder) / name for name in texts)
            yield from (file for file in files if file.is_file())  # a pipe would be waited for


def scan_all(paths: Sequence[Path]) -> Iterator[Problem]:
    """What `ft secrets` tells, one problem a secret."""
    values = variables()
    for file in files_below(paths):
        for number, one in scan(file, values):
            yield Problem(f"{file}:{number}", f"holds {one}", "Take it out, and make a new one: it has been seen.")


def clean(folder: Path) -> list[Problem]:
    """Mask every secret that files of a result hold, the user's rows apart; what was found, the rows' too.

    The token is gone from the disk before anybody is told.
    """
    values = variables(list(key_variables(read_json(folder / artifacts.JOB))))
    problems = []
    for file in files_below([folder]):
        secrets = list(scan(file, values))
        if secrets and file.name not in ROWS and file.suffix != ".gz":
            write_text(file, hide(file.read_text(encoding="utf-8"), values))
        fix = ROWS_FIX if file.name in ROWS else MASKED_FIX
        problems += [Problem(f"{file}:{number}", f"holds {one}", fix) for number, one in secrets]
    return problems


def in_rows(problem: Problem) -> bool:
    """Whether a problem of `clean` is one of the user's own rows."""
    return problem.fix == ROWS_FIX


ROWS_FIX = "It came with the data; see that the folder is not published."
MASKED_FIX = "It is masked now. Find what wrote it, and make a new token: this one has been on the disk."
