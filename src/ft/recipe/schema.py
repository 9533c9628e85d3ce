"""What a class takes: its keys, their annotations and defaults, and values as its annotations take them."""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from ft.bounds import is_at_most
from ft.files import floats

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Schema:
    """Of one class.

    annotations  key → what its value must be; Any where that cannot be resolved
    required     keys without a default
    defaults     those that JSON can hold
    """

    annotations: Mapping[str, Any]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]


@cache
def schema_of(owner: type) -> Schema:
    parameters = [
        parameter
        for parameter in inspect.signature(owner).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    # By the signature: BitsAndBytesConfig is a dataclass with an `__init__` of its own, and its fields are not asked.
    required = [p.name for p in parameters if is_dataclass(owner) and p.default is p.empty]
    return Schema({p.name: _annotation(owner, p) for p in parameters}, tuple(required), _defaults(owner, parameters))


def _annotation(owner: type, parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        simple = type(parameter.default) in (bool, int, float, str)
        return type(parameter.default) if simple else Any
    if not isinstance(annotation, str):
        return annotation
    for base in owner.__mro__:  # the words mean what they mean in the module that wrote them
        if parameter.name in getattr(base, "__annotations__", {}) or base is owner:
            with suppress(NameError):
                return eval(annotation, dict(vars(typing)), vars(sys.modules[base.__module__]))
    return Any


def _defaults(owner: type, parameters: list[inspect.Parameter]) -> dict[str, Any]:
    factories = {f.name: f.default_factory for f in fields(owner)} if is_dataclass(owner) else {}
    defaults = {}
    for parameter in parameters:
        factory = factories.get(parameter.name, MISSING)
        value = parameter.default if factory is MISSING else factory()
        with suppress(TypeError, ValueError):
            defaults[parameter.name] = json.loads(json.dumps(plain(value)))
    return defaults


# Values


def coerce(annotation: Any, value: object) -> Any:
    """The value as `annotation` takes it. Raises ValueError with the words that follow 'x is …': what is needed."""
    from pydantic import ValidationError
    from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

    if annotation is Any:
        return plain(value)
    if isinstance(value, bool) and not _takes_bool(annotation):
        raise ValueError(f"Write {_allowed_values(annotation)}.")
    try:
        return plain(_validator(annotation).validate_python(value))
    except ValidationError:
        if isinstance(value, str) and any(re.fullmatch(one, value) for one in _patterns(annotation)):
            return value
        raise ValueError(f"Write {_allowed_values(annotation)}.") from None
    except (PydanticSchemaGenerationError, PydanticUserError):  # a type that only its library can tell
        return plain(value)


def _patterns(annotation: Any) -> Iterator[str]:
    """Literals that hold a placeholder for a number, as PEFT's `pissa_niter_[number of iters]`."""
    for argument in typing.get_args(annotation):
        if isinstance(argument, str) and (placeholder := re.search(r"\[number[^]]*\]", argument)):
            start, end = placeholder.span()
            yield re.escape(argument[:start]) + r"\d+" + re.escape(argument[end:])
        else:
            yield from _patterns(argument)


@cache
def _validator(annotation: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(
        annotation, config=None if is_dataclass(annotation) else ConfigDict(arbitrary_types_allowed=True)
    )


def inner_keys(annotation: Any) -> list[str]:
    """The keys of a mapping where a typed dictionary describes it; none where nothing does."""
    options = typing.get_args(annotation) or (annotation,)
    return [key for option in options if typing.is_typeddict(option) for key in option.__annotations__]


LARGEST = 3.4e38  # what float32 holds, in which libraries compute
LARGEST_COUNT = 2**32 - 1


def in_range(value: Any, least: float | None, most: float | None) -> Any:
    """The value, unless a number in it is not finite, no library can hold it, or it is below `least` or above `most`.
    Raises ValueError as `coerce` does."""
    for _, number in floats(value):
        if not is_at_most(abs(number), LARGEST):
            raise ValueError("Write a finite number.")
    if isinstance(value, int) and abs(value) > LARGEST_COUNT:
        raise ValueError(f"Write a number up to {LARGEST_COUNT}.")
    if least is not None and isinstance(value, (int, float)) and value < least:
        raise ValueError(f"Write {least} or more.")
    if most is not None and isinstance(value, (int, float)) and value > most:
        raise ValueError(f"Write {most} or less.")
    return value


def _takes_bool(annotation: Any) -> bool:
    """pydantic would read true as 1, where a number is wanted."""
    arguments = typing.get_args(annotation)
    return annotation in (bool, Any) or any(a is True or _takes_bool(a) for a in arguments)


_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}


def _allowed_values(annotation: Any) -> str:
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
        return " or ".join(dict.fromkeys(_allowed_values(a) for a in arguments if a is not type(None)))
    return f"a {getattr(annotation, '__name__', annotation)}"


def plain(value: object) -> Any:
    """As YAML would have it."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):  # pydantic makes one of a mapping, where a field wants it
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return sorted(value) if isinstance(value, set) else value
