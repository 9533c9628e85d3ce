"""Tests a block against the class that reads it: names by signature, values by annotation, then its own checks.

There is no schema of ours to drift: `trl.SFTConfig` itself says which keys `train:` may hold. Importing those classes
takes seconds, so a block found right is remembered (`Verdicts`) under its text and the library's version.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ft.errors import Problems
from ft.files import digest, read_json, write_json
from ft.imports import uncollected
from ft.recipe.aliases import ALIASES, Gone
from ft.recipe.blocks import Block, Items
from ft.secrets import find, look, variables

CHECKED_AGAIN_WHEN_CHANGED = "5"  # raise when this module's rules change, so that remembered verdicts lapse


@dataclass(frozen=True)
class Owner:
    """The class a block belongs to, by name so that naming it imports nothing: `Owner("trl:SFTConfig")`.

    `ours` lists keys that ft sets itself, each with the words that tell a user where the matter is decided.
    `one_of` lists switches of which one must be on, where the class takes none for "do nothing".
    `refused` lists values that the class takes and ft does not, each with the reason.
    `files` lists keys that name a file, relative to the recipe; its bytes decide the result, its name does not.
    `least` lists the lowest value of keys for which the class takes any number, and would train nothing.
    """

    path: str
    ours: Mapping[str, str] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    least: Mapping[str, float] = field(default_factory=dict)

    def load(self) -> type:
        module, name = self.path.split(":")
        with uncollected():
            loaded: type = getattr(importlib.import_module(module), name)
        return loaded

    def has(self, key: str) -> bool:
        return key in _annotations(self.load()) and key not in self.ours

    @property
    def library(self) -> str:
        return self.path.partition(":")[0].partition(".")[0]

    @property
    def version(self) -> str:
        """What a remembered verdict is good for; TRL's and PEFT's classes also inherit from transformers or ask it."""
        return _own_sources() if self.library == "ft" else " ".join(map(version, (self.library, "transformers")))


@cache
def _own_sources() -> str:
    """One hash of ft's modules: a block of ours may hold what any of them defines (a format's name, a reward's)."""
    whole = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


class Verdicts:
    """Blocks that were found right before, in one JSON file; a missing or broken file only costs time."""

    def __init__(self, file: Path | None):
        self.file = file
        self.known: dict[str, Any] = {}
        if file:
            known = read_json(file)
            self.known = known if isinstance(known, dict) else {}

    def get(self, key: str) -> dict[str, Any] | None:
        return self.known.get(key)

    def put(self, key: str, values: dict[str, Any]) -> None:
        self.known[key] = values
        if self.file:
            with suppress(OSError):  # a folder that cannot be written to: checked again next time
                write_json(self.file, self.known)


def check(
    owner: Owner, block: Block, name: str, problems: Problems, notices: list[str], verdicts: Verdicts | None = None
) -> dict[str, Any]:
    """The block's values as its class will take them (plain JSON values); what is wrong goes to `problems`.

    `name` is the block's name in messages and in the alias table ("train", "lora", "data", …).
    """
    values = current_names(block, name, problems, notices)
    before = len(problems)
    for key in [k for k in values if k in owner.ours]:
        problems.add(values.where(key), f"{name}.{key} is decided by ft", owner.ours[key])
    for (key, value), reason in owner.refused.items():
        if values.get(key) == value:
            problems.add(values.where(key), f"{name}.{key} '{value}' is refused: {reason}", f"Remove {key}.")
    _no_secrets(values, name, problems)
    if owner.one_of and not any(values.get(key) for key in owner.one_of):
        what, fix = f"{name} switches nothing on", " or ".join(f"`{key}: true`" for key in owner.one_of)
        problems.add(values.where(), what, f"Write {fix}.")
    key = _verdict_key(owner, values) if verdicts else ""
    if verdicts and len(problems) == before and (known := verdicts.get(key)) is not None:
        return known
    canonical = _checked_values(owner, values, name, problems)
    if len(problems) == before:
        _run_own_checks(owner, canonical, values, name, problems)
    if verdicts and len(problems) == before:
        verdicts.put(_defaults_key(owner), _defaults(owner.load()))
        verdicts.put(key, canonical)
    return canonical


def defaults(owner: Owner, verdicts: Verdicts) -> dict[str, Any]:
    """Key → the class's own default, as it was when a block was last checked; empty where none was, for nothing is
    imported to know it."""
    return verdicts.get(_defaults_key(owner)) or {}


def _defaults_key(owner: Owner) -> str:
    return f"defaults of {owner.path} {owner.version}"


def _defaults(loaded: type) -> dict[str, Any]:
    """Those that JSON can hold."""
    made = {f.name: f.default_factory for f in fields(loaded)} if is_dataclass(loaded) else {}
    found = {}
    for name, parameter in inspect.signature(loaded).parameters.items():
        factory = made.get(name, MISSING)
        value = parameter.default if factory is MISSING else factory()
        with suppress(TypeError, ValueError):
            found[name] = json.loads(json.dumps(_plain(value)))
    return found


def build(owner: Owner, values: Mapping[str, Any], **given: Any) -> Any:
    """The object itself, from checked values and what the stage gives (`output_dir`, `seed`, …)."""
    return owner.load()(**{**values, **given})


def nearest(word: str, words: list[str]) -> str:
    """' Did you mean …?' or the first of the words there are."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"There are: {', '.join(words)}." if len(words) <= 16 else ""


def _verdict_key(owner: Owner, values: Block) -> str:
    return digest([owner.path, owner.version, CHECKED_AGAIN_WHEN_CHANGED, values], 24)


def current_names(block: Block, name: str, problems: Problems, notices: list[str]) -> Block:
    """A copy of the block with renamed keys under their present names, each renaming announced."""
    renamed = Block({}, {}, block.mark)
    table = ALIASES.get(name, {})
    for key, value in block.items():
        alias = table.get(key)
        if isinstance(alias, Gone):
            problems.add(block.where(key), f"{name} has no key '{key}'", alias.fix)
        elif alias is None:
            renamed.put(key, value, block.marks[key])
        elif alias.to in block:
            problems.add(
                block.where(key), f"'{key}' is the old name of '{alias.to}', which stands here too", "Keep one."
            )
        else:
            notices.append(f"{block.where(key)}: '{key}' is now '{alias.to}'; read as such.")
            renamed.put(alias.to, alias.value(value), block.marks[key])
    return renamed


def _no_secrets(values: Block, name: str, problems: Problems) -> None:
    held = variables(named=[values.get("key_env")])
    for key, value in values.items():
        if any(look(value, key, held)):
            problems.add(
                values.where(key), f"{name}.{key} looks like a secret", "Set it in the environment (HF_TOKEN)."
            )


def _checked_values(owner: Owner, values: Block, name: str, problems: Problems) -> dict[str, Any]:
    loaded = owner.load()
    annotations = _annotations(loaded)
    canonical = {}
    for key, value in values.items():
        if key not in annotations:
            known = [k for k in annotations if k not in owner.ours]
            what = f"{name} has no key" if owner.library == "ft" else f"{loaded.__name__} has no field"
            fix = nearest(key, known) or f"Look up the fields of {owner.path.replace(':', '.')}."
            problems.add(values.where(key), f"{what} '{key}'", fix)
            continue
        try:
            canonical[key] = _enough(owner.least.get(key), _coerced(annotations[key], value))
        except ValueError as error:
            problems.add(values.where(key), f"{name}.{key} is {said(value)}", str(error))
    for key in [k for k in _required(loaded) if k not in owner.ours and k not in values]:
        problems.add(values.where(), f"{name} lacks the key '{key}'", f"Write `{key}: …`.")
    return canonical


def _required(loaded: type) -> list[str]:
    """By the signature: BitsAndBytesConfig is a dataclass with an `__init__` of its own, whose fields are not asked."""
    parameters = inspect.signature(loaded).parameters.values() if is_dataclass(loaded) else ()
    return [p.name for p in parameters if p.default is p.empty and p.kind is not inspect.Parameter.VAR_KEYWORD]


@cache
def _annotations(loaded: type) -> dict[str, Any]:
    """Field → annotation, from the signature; a field whose annotation cannot be resolved takes anything."""
    parameters = inspect.signature(loaded).parameters.values()
    return {p.name: _annotation(loaded, p) for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


def _annotation(loaded: type, parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        simple = type(parameter.default) in (bool, int, float, str)
        return type(parameter.default) if simple else Any
    if not isinstance(annotation, str):
        return annotation
    for base in loaded.__mro__:  # the words mean what they mean in the module that wrote them
        if parameter.name in getattr(base, "__annotations__", {}) or base is loaded:
            scope = {**vars(typing), **vars(sys.modules[base.__module__])}
            try:
                return eval(annotation, scope)
            except NameError:
                continue
    return Any


def _coerced(annotation: Any, value: Any) -> Any:
    """The value as `annotation` takes it. Raises ValueError with the words that follow 'x is …': what is needed."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if annotation is Any:
        return _plain(value)
    if isinstance(value, bool) and not _takes_bool(annotation):
        raise ValueError(f"Write {_needed(annotation)}.")
    try:
        config = None if is_dataclass(annotation) else ConfigDict(arbitrary_types_allowed=True)
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
        return _plain(adapter.validate_python(value))
    except ValidationError:
        raise ValueError(f"Write {_needed(annotation)}.") from None
    except (PydanticSchemaGenerationError, PydanticUserError):  # a type that only its library can tell
        return _plain(value)


def _enough(least: float | None, value: Any) -> Any:
    """The value, unless it is a number below `least`. Raises ValueError as `_coerced` does."""
    if least is not None and isinstance(value, (int, float)) and value < least:
        raise ValueError(f"Write {least} or more.")
    return value


def _takes_bool(annotation: Any) -> bool:
    """pydantic would read true as 1, where a number is wanted."""
    arguments = typing.get_args(annotation)
    return annotation in (bool, Any) or any(a is True or _takes_bool(a) for a in arguments)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return sorted(value) if isinstance(value, set) else value


_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}


def _needed(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of: " + ", ".join(str(member.value) for member in annotation)
    origin = typing.get_origin(annotation)
    if origin in (list, dict, tuple, set):
        return {"list": "a list", "dict": "a mapping of keys"}.get(origin.__name__, f"a {origin.__name__}")
    if arguments:
        return " or ".join(dict.fromkeys(_needed(a) for a in arguments if a is not type(None)))
    return f"a {getattr(annotation, '__name__', annotation)}"


def said(value: Any) -> str:
    """A value in a message: 'fast' in quotes, 1.5 and true bare, a list only as such, a secret not at all."""
    if isinstance(value, Block):
        return "a mapping"
    if isinstance(value, str) and find(value):
        return "a secret"
    return "a list" if isinstance(value, Items) else f"'{value}'" if isinstance(value, str) else json.dumps(value)


def _run_own_checks(owner: Owner, canonical: dict[str, Any], block: Block, name: str, problems: Problems) -> None:
    """The class's own `__post_init__`, as on a machine without a GPU; its complaint stands at the key it names."""
    loaded = owner.load()
    try:
        with _nothing_leaks():
            loaded(**{**canonical, **_device_free(loaded, canonical)})
    except Exception as error:  # whatever it raises, the values made it do so
        text = " ".join(str(error).split()) or type(error).__name__
        what = text if owner.library == "ft" else f"{loaded.__name__} refuses {name}: {text}"
        problems.add(block.where(_named_in(text, block)), what)


def _named_in(text: str, block: Block) -> str | None:
    """The key that a complaint names first, else the one whose value it names."""
    places = {key: re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) for key in block}
    found = {key: match.start() for key, match in places.items() if match}
    if found:
        return min(found, key=lambda key: found[key])
    words = [key for key, value in block.items() if isinstance(value, str) and value and value in text]
    return words[0] if words else None


def _device_free(loaded: type, canonical: Mapping[str, Any]) -> dict[str, Any]:
    """What a Trainer's arguments must hold to be built here, whatever machine the recipe is for."""
    if not {"use_cpu", "bf16"} <= set(_annotations(loaded)):
        return {}
    if canonical.get("fp16") and canonical.get("bf16"):
        return {"use_cpu": True, "output_dir": "unused"}  # refused on every machine
    neutral: dict[str, Any] = {"use_cpu": True, "bf16": False, "fp16": False, "tf32": None, "output_dir": "unused"}
    multi: dict[str, Any] = {"fsdp": None, "fsdp_config": None, "deepspeed": None}
    return neutral | {key: value for key, value in multi.items() if key in canonical}


@contextmanager
def _nothing_leaks() -> Iterator[None]:
    """TrainingArguments write to the environment (ACCELERATE_*) when built; a check must not change the next run."""
    before = dict(os.environ)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, by the stage that trains
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def choose(table: Mapping[str, Any], name: Any, what: str, where: str, problems: Problems) -> Any | None:
    """`table[name]`, or a problem that lists what there is."""
    if isinstance(name, str) and name in table:
        return table[name]
    problems.add(where, f"no {what} '{name}'", nearest(str(name), list(table)))
    return None
