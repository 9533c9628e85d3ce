"""A config of another trainer as it was written: a YAML or JSON file, or the flags of a command in a shell script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.errors import Problems, fail
from ft.recipe.yaml import Block, Items, Mark, bounded_text, parse_value, parse_yaml

MAPPINGS = (".yaml", ".yml", ".json")
PROGRAMS = ("swift", "megatron", "trl", "llamafactory-cli", "axolotl", "tune")
"""Commands that start a training, with its method as the next word."""


@dataclass(frozen=True)
class TrainingConfig:
    """`values` remember their lines; `command` is what a script starts ("swift", "rlhf"), empty for a file of keys."""

    path: Path
    text: str
    values: Block
    command: tuple[str, ...] = ()


def read_configs(path: Path) -> list[TrainingConfig]:
    """The file's config, or one for each training that a script starts. Raises UserError where none can be read."""
    text = _text(path)
    problems = Problems()
    if path.suffix.lower() in MAPPINGS:
        configs = [TrainingConfig(path, text, parse_yaml(text, str(path), problems))]
    else:
        configs = [*_commands(path, text, problems)]
    problems.raise_any()
    if not configs:
        raise fail(str(path), "no training is started here", f"A line begins with one of: {', '.join(PROGRAMS)}.")
    return configs


def _text(path: Path) -> str:
    if not path.exists():
        raise fail(str(path), "no such file", "Name a config of another trainer.")
    return bounded_text(path, "config")


# Scripts

_ASSIGNED = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=([^\s'\"]*|'[^']*'|\"[^\"]*\")\s*(?:\\?\s*)$")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
_ARITHMETIC = re.compile(r"\$\(\(?\s*(?:expr\s+)?(\d+)\s*\\?([-+*/])\s*(\d+)\s*\)?\)")
_OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if b else 0,
}


def _commands(path: Path, text: str, problems: Problems) -> Iterator[TrainingConfig]:
    words: list[tuple[str, int]] = []
    for word, line in [*_words(path, text, problems), ("", 0)]:
        if word:
            words.append((word, line))
        elif words:
            yield from _command(path, text, words, problems)
            words = []


def _words(path: Path, text: str, problems: Problems) -> Iterator[tuple[str, int]]:
    """The words of each command with their lines; ("", 0) ends a command."""
    variables: dict[str, str] = {}
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not pending and (assigned := _ASSIGNED.match(line)):
            variables[assigned[1]] = assigned[2].strip("'\"")
            continue
        text_so_far = pending + _evaluate(line, variables)
        first = first if pending else number
        try:
            words = shlex.split(text_so_far.rstrip().removesuffix("\\"), comments=True)
        except ValueError:  # a quote that a later line closes
            pending = text_so_far + "\n"
            continue
        pending = ""
        for word in words:
            if variable := _VARIABLE.search(word):
                problems.add(f"{path}:{first}", f"${variable[1]} is set elsewhere", "Write its value.")
            yield word, first
        if not line.rstrip().endswith("\\") or not words:
            yield "", 0
    if pending:
        problems.add(f"{path}:{first}", "a quote opened here is never closed", "Close it.")


def _evaluate(line: str, variables: dict[str, str]) -> str:
    """The line with what the script assigned, and with whole-number arithmetic done."""
    line = _VARIABLE.sub(lambda match: variables.get(match[1], match[0]), line)
    return _ARITHMETIC.sub(lambda match: str(_OPERATIONS[match[2]](int(match[1]), int(match[3]))), line)


def _command(path: Path, text: str, words: list[tuple[str, int]], problems: Problems) -> Iterator[TrainingConfig]:
    start = next((place for place, (word, _) in enumerate(words) if word in PROGRAMS), None)
    if start is None:
        return
    command = [word for word, _ in words[start : start + 2]]
    mark = Mark(str(path), words[start][1])
    values, key = Block({}, {}, mark), ""
    for word, line in words[start + 2 :]:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            values.put(key, parse_value(value, mark, problems) if equals else True, Mark(str(path), line))
        elif key:
            _append(values, key, _parse_word(word, Mark(str(path), line), problems), Mark(str(path), line))
        else:
            values.put("config", word, Mark(str(path), line))
    _switch_off(values)
    yield TrainingConfig(path, text, values, tuple(command))


def _switch_off(values: Block) -> None:
    """`--no_KEY` of transformers' parser is `KEY: false`."""
    for key in [key for key, value in values.items() if key.startswith("no_") and value is True]:
        del values[key]
        values.put(key.removeprefix("no_"), False, values.marks.pop(key))


def _parse_word(word: str, mark: Mark, problems: Problems) -> Any:
    return word if "#" in word else parse_value(word, mark, problems)


def _append(values: Block, key: str, value: Any, mark: Mark) -> None:
    """A flag's value; several of them are a list."""
    text_so_far = values[key]
    if text_so_far is True:
        values.put(key, value, mark)
    elif isinstance(text_so_far, Items):
        text_so_far.append(value)
        text_so_far.marks.append(mark)
    else:
        values[key] = Items([text_so_far, value], [values.marks[key], mark], values.marks[key])
