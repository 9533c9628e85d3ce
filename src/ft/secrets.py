"""Finds tokens and keys in text and in plain values, so that none is written into a result or shown.

Two ways to know one: by its form (PATTERNS), and by being the value of a variable of this environment that holds one.
To add a form: one line in PATTERNS. A found secret is never printed; messages show `mask` of it.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import Problem, Problems
from ft.files import read_json, write_text

PATTERNS = {
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{18,}",
    "OpenAI or Anthropic key": r"\bsk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{18,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{40,})",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": r"\bxox[abeprs]-[0-9A-Za-z-]{10,}",
    "PyPI token": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    "W&B key": r"(?i:wandb)[\w-]*[\"']?\s*[:=]\s*[\"']?[0-9a-f]{40}\b",
    "key in an assignment": r"(?i:\b(?:[a-z]+[_-])?(?:api[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret"
    r"|secret[_-]?key)[\"']?\s*[:=]\s*[\"']?)(?=[A-Za-z_+/=-]*\d)[A-Za-z0-9_+/=-]{24,}",
    "password in an address": r"\b[a-z][a-z0-9+.-]{1,12}://[^/\s:@\"']+:[^/\s:@\"']{8,}@",
}
# A text without any of these holds none of the above: most text is passed at the speed of a substring search.
HINTS = (
    *("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "AIza", "xox"),
    *("pypi-", "eyJ", "PRIVATE KEY", "://", "wandb", "WANDB", "Wandb"),
)
ASSIGNED = re.compile(r"(?i)(?:key|token|secret)[\"']?\s*[:=]")
ONE = re.compile("|".join(f"(?P<p{n}>{pattern})" for n, pattern in enumerate(PATTERNS.values())))
KINDS = tuple(PATTERNS)
ASSIGNMENTS = ("W&B key", "key in an assignment")  # their name stays readable

VARIABLE = re.compile(r"(?i)(?:^|_)(?:token|key|secret|password)$")
NO_SECRET = re.compile(r"^[~./]|\s")  # a path, or words
SHORTEST = 16  # characters of a variable's value: shorter ones are words that stand in text by chance
LINE = 1 << 20  # of a longer line only the first characters are read
TEXT = {
    *(".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".html", ".csv", ".tsv", ".jinja", ".py", ".toml", ".cfg"),
    *(".ini", ".env", ".sh", ".log", ".svg", ".gz", ""),
}
VOCABULARY = (artifacts.TOKENIZER, "vocab.json", "merges.txt")  # every word there is, and large
ROWS = (artifacts.ROWS, artifacts.REJECTS, artifacts.ANSWERS, artifacts.SAMPLES)
"""Files of a result that hold the user's rows and a model's answers: a token there is told of, and not refused."""


@dataclass(frozen=True)
class Secret:
    """A secret in a text, from `start` to `end`. `kind` says what it is, `value` never leaves this process."""

    kind: str
    start: int
    end: int
    value: str

    def __str__(self) -> str:
        return f"{self.kind} ({mask(self.value)})"


def mask(value: str) -> str:
    """'hf_…(37 characters)': enough to know which one is meant, of no use to anybody else."""
    head = re.match(r"[A-Za-z]{2,6}[_-]", value)
    return f"{head[0] if head else ''}…({len(value)} characters)"


def variables(names: Sequence[Any] = ()) -> dict[str, str]:
    """Value → name of the variables of this environment that hold a secret: *_TOKEN, *_KEY, *_SECRET, *_PASSWORD and
    those `named` (by `key_env:`), of 16 characters and more. Paths are none (SSH_KEY=/…)."""
    values = {value.strip(): name for name, value in os.environ.items() if VARIABLE.search(name) or name in names}
    return {value: name for value, name in values.items() if len(value) >= SHORTEST and not NO_SECRET.search(value)}


def find(text: str, values: Mapping[str, str] | None = None) -> list[Secret]:
    """Every secret in a text, in order. `values` (value → variable) are those of the environment unless given."""
    values = variables() if values is None else values
    secrets = [
        Secret(f"the value of {name}", at.start(), at.end(), value)
        for value, name in values.items()
        if value in text
        for at in re.finditer(re.escape(value), text)
    ]
    if any(hint in text for hint in HINTS) or (("=" in text or ":" in text) and ASSIGNED.search(text)):
        for at in ONE.finditer(text):
            if not any(one.start < at.end() and at.start() < one.end for one in secrets):
                secrets.append(_secret(at))
    return sorted(secrets, key=lambda one: one.start)


def _secret(at: re.Match[str]) -> Secret:
    kind = KINDS[int((at.lastgroup or "p0")[1:])]
    start = at.start()
    if kind in ASSIGNMENTS and (value := re.search(r"[^\s:=\"']+=*$", at[0])):
        start += value.start()
    return Secret(kind, start, at.end(), at[0][start - at.start() :])


def hide(text: str, values: Mapping[str, str] | None = None) -> str:
    """The text with every secret masked."""
    for one in reversed(find(text, values)):
        text = text[: one.start] + mask(one.value) + text[one.end :]
    return text


def look(value: object, key: str = "", values: Mapping[str, str] | None = None) -> Iterator[tuple[str, Secret]]:
    """(key, secret) of every secret in a plain value: mappings, lists and texts, keys included."""
    values = variables() if values is None else values
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from ((key or "a key", one) for one in find(str(name), values))
            yield from look(inner, f"{key}.{name}" if key else str(name), values)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from look(inner, f"{key}.{place}" if key else str(place), values)
    elif isinstance(value, (str, Path)):
        yield from ((key, one) for one in find(str(value), values) or find(f"{key.rpartition('.')[2]}={value}", values))


def refuse(where: str, value: object) -> None:
    """Raise UserError when a plain value or a text that is about to be written holds a secret."""
    problems = Problems()
    for key, one in look(value, values=variables(list(_key_variables(value)))):
        problems.add(where, f"{key + ' ' if key else ''}holds {one}", FIX)
    problems.raise_any()


def _key_variables(value: object) -> Iterator[str]:
    """The variables that a recipe's `key_env:` names, wherever it stands."""
    if isinstance(value, Mapping):
        yield from (str(name) for key, name in value.items() if key == "key_env" and name)
        yield from (name for inner in value.values() for name in _key_variables(inner))
    elif isinstance(value, (list, tuple)):
        yield from (name for inner in value for name in _key_variables(inner))


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
        secret = next(iter(find("\n".join(_texts(row)), self.held)), None)
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


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


# Files


def scan(file: Path, values: Mapping[str, str] | None = None) -> Iterator[tuple[int, Secret]]:
    """(line, secret) of a text file, also one packed with gzip; nothing of a file that is no text."""
    values = variables() if values is None else values
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8", errors="strict") as lines:
            for number, line in enumerate(lines, 1):
                yield from ((number, one) for one in find(line[:LINE], values))
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
            yield from (Path(folder) / name for name in texts)


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
    values = variables(list(_key_variables(read_json(folder / artifacts.JOB))))
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
