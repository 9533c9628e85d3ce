"""Finds tokens and keys in text and in plain values, so that none is written into a result or shown.

`secret_files` looks for them in rows and files.

Two ways to know one: by its form (PATTERNS), and by being the value of a variable of this environment that holds one.
To add a form: one line in PATTERNS. A found secret is never printed; messages show `mask` of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def variables(names: Sequence[object] = ()) -> dict[str, str]:
    """Value → name of the variables of this environment that hold a secret: *_TOKEN, *_KEY, *_SECRET, *_PASSWORD and
    those in `names` (of `key_env:`), of 16 characters and more. Paths are none (SSH_KEY=/…)."""
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


def hide_in_pieces(pieces: Sequence[str], values: Mapping[str, str] | None = None) -> list[str]:
    """The pieces of a text with every secret masked, also one that several of them hold parts of: its mask stands in
    the first of these."""
    secrets, place, hidden = find("".join(pieces), values), 0, []
    for piece in pieces:
        end = place + len(piece)
        for one in reversed([one for one in secrets if one.start < end and one.end > place]):
            start = one.start - place
            piece = piece[: max(0, start)] + (mask(one.value) if start >= 0 else "") + piece[one.end - place :]
        hidden.append(piece)
        place = end
    return hidden


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


def key_variables(value: object) -> Iterator[str]:
    """The variables that a recipe's `key_env:` names, wherever it stands."""
    if isinstance(value, Mapping):
        yield from (str(name) for key, name in value.items() if key == "key_env" and name)
        yield from (name for inner in value.values() for name in key_variables(inner))
    elif isinstance(value, (list, tuple)):
        yield from (name for inner in value for name in key_variables(inner))
