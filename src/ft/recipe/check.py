"""Tests a block against the class that reads it: names by signature, values by annotation, then its own checks.

There is no schema of ours to drift: `trl.SFTConfig` itself says which keys `train:` may hold. Importing it takes
seconds, so the class is first made from its source alone (`ft.recipe.source`); what the source does not decide is asked
of the imported class. A block found right is remembered under its text (`Verdicts`).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ft.errors import Problems
from ft.files import digest, read_json, write_json
from ft.imports import uncollected
from ft.recipe.aliases import ALIASES, Gone
from ft.recipe.schema import Schema, coerce, in_range, inner_keys, schema_of
from ft.recipe.source import MODULE_PREFIX, construct, is_symbolic, read_class
from ft.recipe.symbolic import Undecided
from ft.recipe.yaml import Block, Items
from ft.secrets import find, key_variables, look, variables

SECRET_FIX = "Set it in the environment (HF_TOKEN)."
RULES_VERSION = "9"  # raise when this module's rules change, so that remembered verdicts lapse


@dataclass(frozen=True)
class Owner:
    """The class a block belongs to, by name so that naming it imports nothing: `Owner("trl:SFTConfig")`.

    `reserved` lists keys that ft sets itself, each with the words that tell a user where the matter is decided.
    `one_of` lists switches of which one must be on, where the class takes none for "do nothing".
    `refused` lists values that the class takes and ft does not, each with the reason; "key.inner" is one in a mapping.
    `files` lists keys that name a file, relative to the recipe; its bytes decide the result, its name does not.
    `minimum` and `maximum` list the bounds of keys for which the class takes any number, and would train nothing.
    `signed` lists keys that may be negative though their default is not.
    `inherits` names the library of which a class of ft inherits.
    `trial` names a function, "module:function", that tries the values out: it raises ValueError with the key where the
    class takes what its library refuses when it is used.
    `chosen_by` names a key whose value chooses another class, and `classes` the class of each value.
    """

    path: str
    reserved: Mapping[str, str] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    refused: Mapping[tuple[str, str | bool], str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    minimum: Mapping[str, float] = field(default_factory=dict)
    maximum: Mapping[str, float] = field(default_factory=dict)
    signed: tuple[str, ...] = ()
    inherits: str = ""
    trial: str = ""
    chosen_by: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, values: Mapping[str, Any]) -> Owner:
        """The owner of a block with these values."""
        path = self.classes.get(str(values.get(self.chosen_by)))
        return replace(self, path=path) if path else self

    @property
    def library(self) -> str:
        return self.path.partition(":")[0].partition(".")[0]

    @property
    def name(self) -> str:
        return self.path.partition(":")[2]

    def load(self) -> type:
        """The class itself, imported."""
        module, name = self.path.split(":")
        with uncollected():
            loaded: type = getattr(importlib.import_module(module), name)
        return loaded

    def source(self) -> type | None:
        """The class made from its source; None where importing it costs little, or its source does not suffice."""
        return _from_source(self.path) if self.library != "ft" or self.inherits else None

    def schema(self) -> Schema:
        return schema_of(self.source() or self.load())

    def default(self, key: str) -> Any:
        """The class's own default of a key, None where it has none: asked of the class, never written in ft."""
        return self.schema().defaults.get(key)

    def least(self, key: str) -> float | None:
        """The lowest value of a key: what is written in `minimum`; else 0 where a library's default is not negative."""
        if key in self.minimum:
            return self.minimum[key]
        default = self.default(key)
        is_number = isinstance(default, (int, float)) and not isinstance(default, bool)
        has_sign = key in self.signed or (self.library == "ft" and not self.inherits)  # our classes check themselves
        return 0 if is_number and default >= 0 and not has_sign else None

    def try_out(self, values: Mapping[str, Any]) -> None:
        if self.trial:
            module, name = self.trial.split(":")
            getattr(importlib.import_module(module), name)(values)

    def has(self, key: str) -> bool:
        return key in self.schema().annotations and key not in self.reserved

    @property
    def version(self) -> str:
        """What a remembered verdict is good for; TRL's and PEFT's classes also inherit from transformers or ask it."""
        libraries = {self.library, self.inherits} - {"ft", ""}
        versions = [version(name) for name in (*sorted(libraries), "transformers")] if libraries else []
        return " ".join([*([_own_sources()] if self.library == "ft" else []), *versions])


@cache
def _from_source(path: str) -> type | None:
    with nothing_leaks():
        read = read_class(path)
        try:
            if read:
                schema_of(read)
        except (Exception, Undecided):  # a default or an annotation that its source does not say
            return None
    return read


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
            verdicts = read_json(file)
            self.known = verdicts if isinstance(verdicts, dict) else {}

    def get(self, key: str) -> dict[str, Any] | None:
        """The values of a block as they were found right; None where they are not known, or not what was written."""
        entry = self.known.get(key)
        if not isinstance(entry, dict) or not isinstance(values := entry.get("values"), dict):
            return None
        return values if entry.get("digest") == digest(values) else None

    def put(self, key: str, values: dict[str, Any]) -> None:
        self.known[key] = {"values": values, "digest": digest(values)}
        if self.file:
            with suppress(OSError):  # a folder that cannot be written to: checked again next time
                write_json(self.file, self.known)


def check(
    owner: Owner, block: Block, name: str, problems: Problems, notices: list[str], verdicts: Verdicts | None = None
) -> dict[str, Any]:
    """The block's values as its class will take them (plain JSON values); what is wrong goes to `problems`.

    `name` is the block's name in messages and in the alias table ("train", "lora", "data", …).
    """
    values = rename_old_keys(block, name, problems, notices)
    before = len(problems)
    for key in [k for k in values if k in owner.reserved]:
        problems.add(values.where(key), f"{name}.{key} is not set here", owner.reserved[key])
    for (key, value), reason in owner.refused.items():
        outer, _, inner = key.partition(".")
        written = values.get(outer)
        if (written.get(inner) if inner and isinstance(written, Mapping) else written) == value:
            what = f"{name}.{key} {value_text(value)} is refused: {reason}"
            problems.add(values.where(outer), what, f"Remove {key}.")
    if owner.one_of and not any(values.get(key) for key in owner.one_of):
        what, fix = f"{name} switches nothing on", " or ".join(f"`{key}: true`" for key in owner.one_of)
        problems.add(values.where(), what, f"Write {fix}.")
    key = _verdict_key(owner, values) if verdicts else ""
    if verdicts and len(problems) == before and (verdict := verdicts.get(key)) is not None:
        return verdict
    choice = {word: values[word] for word in values if word == owner.chosen_by}
    for word, value in choice.items():
        choose(owner.classes, value, word, values.where(word), problems)
    owner = owner.chosen(values)
    fields = Block({word: values[word] for word in values if word not in choice}, values.marks, values.mark)
    canonical = _coerce_values(owner, fields, name, problems)
    if len(problems) == before:
        _run_class_checks(owner, canonical, fields, name, problems)
    canonical = {**choice, **canonical}
    if verdicts and len(problems) == before:
        verdicts.put(key, canonical)
    return canonical


def defaults(owner: Owner) -> Mapping[str, Any]:
    """Key → the class's own default, of those that JSON can hold."""
    return owner.schema().defaults


def build(owner: Owner, values: Mapping[str, Any], **stage_values: Any) -> Any:
    """The object itself, from checked values and what the stage gives (`output_dir`, `seed`, …)."""
    return owner.load()(**{**values, **stage_values})


def suggest(word: str, words: list[str]) -> str:
    """' Did you mean …?' or the first of the words there are."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"There are: {', '.join(words)}." if len(words) <= 32 else ""


def _verdict_key(owner: Owner, values: Block) -> str:
    return digest([owner.path, owner.version, RULES_VERSION, values], 24)


def rename_old_keys(block: Block, name: str, problems: Problems, notices: list[str]) -> Block:
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


def check_secrets(
    block: Block, problems: Problems, name: str = "recipe", secret_values: Mapping[str, str] | None = None
) -> bool:
    """Add each key and value that looks like a token or holds one of this environment; whether there is any. Look
    before a block is checked, since what is found right is remembered in a file."""
    secret_values = variables(list(key_variables(block))) if secret_values is None else secret_values
    before = len(problems)
    for key, value in block.items():
        entries = value if isinstance(value, Items) else [value]
        for inner in entries:
            if isinstance(inner, Block):
                check_secrets(inner, problems, key, secret_values)
        if find(key, secret_values):
            problems.add(block.where(key), f"a key of {name} looks like a secret", SECRET_FIX)
        elif any(any(look(one, key, secret_values)) for one in entries if not isinstance(one, Block)):
            problems.add(block.where(key), f"{name}.{key} looks like a secret", SECRET_FIX)
    return len(problems) > before


def _coerce_values(owner: Owner, values: Block, name: str, problems: Problems) -> dict[str, Any]:
    """Values as their annotations take them."""
    schema = owner.schema()
    if any(is_symbolic(schema.annotations.get(key)) for key in values):
        schema = schema_of(owner.load())
    canonical = {}
    for key, value in values.items():
        if key not in schema.annotations:
            keys = [k for k in schema.annotations if k not in owner.reserved]
            what = f"{name} has no key" if owner.library == "ft" else f"{owner.name} has no field"
            fix = suggest(key, keys) or f"Look up the fields of {owner.path.replace(':', '.')}."
            problems.add(values.where(key), f"{what} '{key}'", fix)
            continue
        try:
            canonical[key] = in_range(coerce(schema.annotations[key], value), owner.least(key), owner.maximum.get(key))
        except ValueError as error:
            problems.add(values.where(key), f"{name}.{key} is {value_text(value)}", str(error))
        _refuse_inner_keys(inner_keys(schema.annotations[key]), value, f"{name}.{key}", problems)
    for key in [k for k in schema.required if k not in owner.reserved and k not in values]:
        problems.add(values.where(), f"{name}: the key '{key}' is missing", f"Write `{key}: …`.")
    return canonical


def _refuse_inner_keys(keys: list[str], value: Any, name: str, problems: Problems) -> None:
    """Add a problem for each key of a mapping that its class does not know, unless the mapping is one of mappings."""
    for key in value if keys and isinstance(value, Block) else ():
        if key not in keys and not isinstance(value[key], Mapping):
            problems.add(value.where(key), f"{name} has no key '{key}'", suggest(key, keys))


def value_text(value: object) -> str:
    """A value in a message: 'fast' in quotes, 1.5 and true bare, a list only as such, a secret not at all."""
    if isinstance(value, Block):
        return "a mapping"
    if isinstance(value, str) and find(value):
        return "a secret"
    return "a list" if isinstance(value, Items) else f"'{value}'" if isinstance(value, str) else json.dumps(value)


def _run_class_checks(owner: Owner, canonical: dict[str, Any], block: Block, name: str, problems: Problems) -> None:
    """The class's own `__post_init__`, as on a machine without a GPU; its complaint stands at the key it names."""
    try:
        with nothing_leaks():
            _construct(owner, canonical, device_free(owner.schema(), canonical))
            owner.try_out(canonical)
    except Exception as error:  # whatever it raises, the values made it do so
        text = " ".join(str(error).replace(MODULE_PREFIX, "").split()) or type(error).__name__
        what = text if owner.library == "ft" else f"{owner.name} refuses {name}: {text}"
        problems.add(block.where(_key_in(text, block)), what)


def _construct(owner: Owner, values: Mapping[str, Any], forced: Mapping[str, Any]) -> None:
    if source := owner.source():
        with suppress(Undecided):
            construct(source, values, forced)
            return
    owner.load()(**{**values, **forced})


def _key_in(text: str, block: Block) -> str | None:
    """The key that a complaint names first, else the one whose value it names."""
    places = {key: re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text) for key in block}
    starts = {key: match.start() for key, match in places.items() if match}
    if starts:
        return min(starts, key=lambda key: starts[key])
    words = [key for key, value in block.items() if isinstance(value, str) and value and value in text]
    return words[0] if words else None


def device_free(schema: Schema, canonical: Mapping[str, Any]) -> dict[str, Any]:
    """What a Trainer's arguments must hold to be built here, whatever machine the recipe is for."""
    if not {"use_cpu", "bf16"} <= schema.annotations.keys():
        return {}
    if canonical.get("fp16") and canonical.get("bf16"):
        return {"use_cpu": True, "output_dir": "unused"}  # refused on every machine
    neutral: dict[str, Any] = {"use_cpu": True, "bf16": False, "fp16": False, "tf32": None, "output_dir": "unused"}
    multi: dict[str, Any] = {"fsdp": None, "fsdp_config": None, "deepspeed": None}
    return neutral | {key: value for key, value in multi.items() if key in canonical}


@contextmanager
def nothing_leaks() -> Iterator[None]:
    """TrainingArguments write to the environment (ACCELERATE_*) when built; a check must not change the next run."""
    before = dict(os.environ)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, by the stage that trains
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def choose(table: Mapping[str, Any], name: object, noun: str, where: str, problems: Problems) -> Any | None:
    """`table[name]`, or a problem that lists what there is."""
    if isinstance(name, str) and name in table:
        return table[name]
    problems.add(where, f"no {noun} '{name}'", suggest(str(name), list(table)))
    return None
