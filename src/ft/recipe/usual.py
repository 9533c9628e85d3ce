"""Blocks to which a class surely says yes, so that it need not be imported to be asked.

Nothing is refused here: a block that is not surely right is judged by the class itself. A `Usual` says of the keys that
a class's checks look at which values pass whatever stands beside them; of keys they never look at nothing needs saying.
Tests build usual blocks at random with the real classes, which must take them all and look nowhere else.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ft.recipe.schema import Schema

Rule = Callable[[Any], bool]
ABSENT = object()


def named(value: Any) -> bool:
    """One of the words that the key's annotation lists; `surely` reads them there."""
    raise NotImplementedError


def anything(value: Any) -> bool:
    return True


def switch(value: Any) -> bool:
    return isinstance(value, bool)


def words(value: Any) -> bool:
    """A word or a list of them."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def mapping(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def counted(value: Any) -> bool:
    """1, 2, 3 …"""
    return positive(value) and value >= 1 and value == int(value)


def positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value < float("inf")


def not_negative(value: Any) -> bool:
    return positive(value) or (value == 0 and not isinstance(value, bool))


def either(*values: Any) -> Rule:
    return lambda value: any(value is one or (type(value) is type(one) and value == one) for one in values)


@dataclass(frozen=True)
class Usual:
    """keys      key → which values pass; a key looked at that is not here passes with its default only
    together  what must hold between keys; it gets every key, with defaults
    """

    keys: Mapping[str, Rule]
    together: tuple[Callable[[Mapping[str, Any]], bool], ...] = field(default=())

    def surely(self, schema: Schema, values: Mapping[str, Any]) -> bool:
        """Whether the class of the schema takes these checked values, for certain."""
        for key in schema.looked_at & values.keys():
            rule = self.keys.get(key)
            if rule is named:
                rule = either(*_listed(schema.annotation(key)))
            if not (rule and rule(values[key])) and values[key] != schema.defaults.get(key, ABSENT):
                return False
        whole = {**schema.defaults, **values}
        return all(holds(whole) for holds in self.together)


def _listed(annotation: Any) -> list[Any]:
    """The values of an Enum, alone or beside a word."""
    kinds = [one for one in (annotation, *typing.get_args(annotation)) if isinstance(one, type)]
    return [member.value for one in kinds if issubclass(one, Enum) for member in one]
