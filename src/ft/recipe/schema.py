"""What a class takes: its keys, their annotations and defaults, read from the class or from what ft ships of it.

TRL's, transformers' and PEFT's classes take seconds to import. `schemas.json` holds what was read from those of the
versions in requirements.txt; it counts only while versions and source files are the same, and else the class is asked.
`python -m ft.stages.schemas` writes it, and a test compares it with the classes.
"""

from __future__ import annotations

import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, NoneType, UnionType
from typing import Any

from ft.files import digest

FILE = Path(__file__).parent / "schemas.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


@dataclass(frozen=True)
class Schema:
    """Of one class.

    annotation  key → what its value must be; raises Opaque where only the library can tell
    required    keys without a default
    defaults    those that JSON can hold
    looked_at   keys that the class's own checks may look at; no other can make them say no
    shipped     whether it was read from the file; then the class is not imported
    """

    name: str
    keys: tuple[str, ...]
    annotation: Callable[[str], Any]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    looked_at: frozenset[str]
    shipped: bool = False


class Opaque(Exception):
    """An annotation that names a class of the library's own."""


def schema_of(loaded: type) -> Schema:
    """Read from the class itself."""
    annotations = _annotations(loaded)
    found = _defaults(loaded)
    return Schema(
        loaded.__name__, tuple(annotations), annotations.__getitem__, _required(loaded), found, _looked_at(loaded)
    )


def shipped(path: str) -> Schema | None:
    """What the file says of the class "module:Name"; None where it says nothing, or of other versions."""
    held = _file()
    written = held.get("classes", {}).get(path)
    if not written or not _same_versions() or any(source(name) != told for name, told in written["sources"].items()):
        return None
    keys = written["keys"]
    return Schema(
        path.partition(":")[2],
        tuple(keys),
        lambda key: _decoded(keys[key]["takes"]),
        tuple(key for key, one in keys.items() if one.get("required")),
        {key: one["default"] for key, one in keys.items() if "default" in one},
        frozenset(key for key, one in keys.items() if one.get("looked_at")),
        shipped=True,
    )


def told(loaded: type) -> dict[str, Any]:
    """A class as the file holds it."""
    read = schema_of(loaded)
    keys = {}
    for key in read.keys:
        keys[key] = {"takes": _encoded(read.annotation(key))}
        keys[key] |= {"default": read.defaults[key]} if key in read.defaults else {}
        keys[key] |= {"required": True} if key in read.required else {}
        keys[key] |= {"looked_at": True} if key in read.looked_at else {}
    return {"sources": {name: source(name) for name in sorted(_modules(loaded))}, "keys": keys}


def versions() -> dict[str, str]:
    """Of the libraries that decide what a class takes; a build's suffix (+cpu) does not."""
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


@cache
def _file() -> dict[str, Any]:
    held: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return held


@cache
def _same_versions() -> bool:
    return bool(_file().get("versions") == versions())


@cache
def source(module: str) -> str:
    """A hash of the module's file, which is found without importing anything."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return ""
    file = Path(spec.submodule_search_locations[0]).joinpath(*rest).with_suffix(".py")
    return digest(file.read_text(encoding="utf-8"), 16) if file.exists() else ""


def _modules(loaded: type) -> set[str]:
    """Modules of the class, of those it inherits from, and of what its annotations name."""
    classes = {*loaded.__mro__, *(one for a in _annotations(loaded).values() for one in _classes(a))}
    return {one.__module__ for one in classes if "." in one.__module__}


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and annotation.__module__ != "builtins":
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _classes(argument)


# Annotations


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


_WORDS: dict[Any, str] = {Any: "any", NoneType: "null", int: "int", float: "float", str: "str", bool: "bool"}
_OF_WORDS = {word: annotation for annotation, word in _WORDS.items()}
_HOLDERS: dict[str, Any] = {"list": list, "dict": dict, "tuple": tuple, "set": set}


def _encoded(annotation: Any) -> Any:
    """An annotation as JSON; None where it names a class that is no Enum."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation) or annotation
    if origin is typing.Literal:
        return {"literal": list(arguments)}
    if typing.is_typeddict(annotation):
        return {"dict": []}  # its keys are for the class's own checks
    if isinstance(annotation, type) and issubclass(annotation, Enum) and issubclass(annotation, str):
        return {"enum": annotation.__name__, "members": {member.name: member.value for member in annotation}}
    union = origin is typing.Union or origin is UnionType
    name = "union" if union else getattr(origin, "__name__", "")
    if not union and _HOLDERS.get(name) is not origin:
        return None
    parts = [_encoded(argument) for argument in arguments]
    return None if None in parts else {name: parts}


def _decoded(written: Any) -> Any:
    if written is None:
        raise Opaque
    if isinstance(written, str):
        return _OF_WORDS[written]
    if "enum" in written:
        return Enum(written["enum"], written["members"], type=str)
    name, parts = next(iter(written.items()))
    if name == "literal":
        return typing.Literal[tuple(parts)]
    arguments = tuple(map(_decoded, parts))
    if name == "union":
        return typing.Union[arguments]  # noqa: UP007 - of a tuple
    holder = _HOLDERS[name]
    return holder[arguments] if arguments else holder


# Defaults


def _required(loaded: type) -> tuple[str, ...]:
    """By the signature: BitsAndBytesConfig is a dataclass with an `__init__` of its own, whose fields are not asked."""
    parameters = inspect.signature(loaded).parameters.values() if is_dataclass(loaded) else ()
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind is not inspect.Parameter.VAR_KEYWORD)


def _defaults(loaded: type) -> dict[str, Any]:
    made = {f.name: f.default_factory for f in fields(loaded)} if is_dataclass(loaded) else {}
    found = {}
    for name, parameter in inspect.signature(loaded).parameters.items():
        factory = made.get(name, MISSING)
        value = parameter.default if factory is MISSING else factory()
        with suppress(TypeError, ValueError):
            found[name] = json.loads(json.dumps(plain(value)))
    return found


def plain(value: Any) -> Any:
    """As YAML would have it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return sorted(value) if isinstance(value, set) else value


# Where a class's own checks look


def _looked_at(loaded: type) -> frozenset[str]:
    """Fields that `__post_init__` names, and what it names names in turn: methods, properties, tables of words.

    A class with an `__init__` of its own, which is handed every key, may look at all of them.
    """
    keys = frozenset(_annotations(loaded))
    made = vars(loaded).get("__init__")
    if not is_dataclass(loaded) or not isinstance(made, FunctionType) or made.__code__.co_filename != "<string>":
        return keys
    seen: set[str] = set()
    waiting = {"__post_init__"}
    while waiting:
        seen |= waiting
        members = [vars(base).get(word) for word in waiting for base in loaded.__mro__]
        waiting = {word for member in members for word in _words_of(member)} - seen
    return keys & seen


def _words_of(member: Any) -> Iterator[str]:
    """Names and strings in a method or a property and in the tables of its module that it names, or in a table."""
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, cached_property):
        member = member.func
    elif isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if not isinstance(member, FunctionType):
        yield from _words_in(member)
        return
    for word in _words_in(member.__code__):
        yield word
        yield from _words_in(member.__globals__.get(word))


def _words_in(held: Any) -> Iterator[str]:
    if isinstance(held, str):
        yield held
    elif isinstance(held, CodeType):
        yield from (*held.co_names, *(word for one in held.co_consts for word in _words_in(one)))
    elif isinstance(held, (list, tuple, frozenset, set, dict)):
        for one in held:
            yield from _words_in(one)
