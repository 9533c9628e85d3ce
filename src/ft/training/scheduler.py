"""Whether a recipe's `lr_scheduler_kwargs` fit its scheduler, asked of transformers.

A plan reads the names of a scheduler's parameters from the source, which takes milliseconds where importing torch takes
seconds; what that leaves open is asked of the function itself.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GIVEN = {"optimizer", "num_warmup_steps", "num_training_steps"}  # what get_scheduler says itself


def try_scheduler(values: Mapping[str, Any]) -> None:
    """Raises ValueError where transformers cannot make the scheduler of a `train:` block. Nothing is imported where the
    block says nothing of it, or one number under a name that the scheduler has: several may exclude each other."""
    options = values.get("lr_scheduler_kwargs")
    if not isinstance(options, Mapping) or not options:
        return
    required, optional = _parameters().get(str(values.get("lr_scheduler_type")).upper(), (set(), set()))
    ((name, value),) = options.items() if len(options) == 1 else (("", None),)
    if not isinstance(value, (int, float)) or name not in required | optional or required - {name}:
        make_scheduler(values)


def make_scheduler(values: Mapping[str, Any]) -> None:
    """Raises ValueError where transformers cannot make the scheduler, for whatever reason."""
    import torch
    from transformers import get_scheduler

    options, name = values.get("lr_scheduler_kwargs"), values.get("lr_scheduler_type", "linear")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    try:
        get_scheduler(name, optimizer, 1, 10, scheduler_specific_kwargs=dict(options or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_scheduler_kwargs do not fit the scheduler '{name}': {error}") from error


@cache
def _parameters() -> Mapping[str, tuple[set[str], set[str]]]:
    """Name of a scheduler's type in capitals → what `lr_scheduler_kwargs` must and may hold, as the source says it."""
    spec = find_spec("transformers")
    folder = next(iter(spec.submodule_search_locations or ()), "") if spec else ""
    tree = ast.parse((Path(folder) / "optimization.py").read_text(encoding="utf-8"))
    functions = {node.name: node.args for node in tree.body if isinstance(node, ast.FunctionDef)}
    tables = (node for node in tree.body if isinstance(node, ast.Assign))
    table = next((node.value for node in tables if _assigns(node, "TYPE_TO_SCHEDULER_FUNCTION")), None)
    entries = zip(table.keys, table.values, strict=True) if isinstance(table, ast.Dict) else ()
    return {
        kind.attr: _must_and_may(functions[function.id])
        for kind, function in entries
        if isinstance(kind, ast.Attribute) and isinstance(function, ast.Name) and function.id in functions
    }


def _must_and_may(arguments: ast.arguments) -> tuple[set[str], set[str]]:
    names = [argument.arg for argument in arguments.args]
    first_default = len(names) - len(arguments.defaults)
    return {*names[:first_default]} - GIVEN, {*names[first_default:]} - GIVEN


def _assigns(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
