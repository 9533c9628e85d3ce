"""Whether a recipe's `lr_scheduler_kwargs` fit its scheduler: transformers' own function is asked.

A plan runs that function from its source, without the libraries it stands on: what it checks are the names and numbers
that it is given. Where that says nothing, transformers is imported, which takes seconds.
"""

from __future__ import annotations
import __future__

import ast
import builtins
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GIVEN = {"num_warmup_steps": 1, "num_training_steps": 10}  # what get_scheduler adds, where the function takes it


def try_scheduler(values: Mapping[str, Any]) -> None:
    """Raises ValueError where transformers cannot make the scheduler of a `train:` block."""
    options = values.get("lr_scheduler_kwargs")
    if not isinstance(options, Mapping) or not options:
        return
    name = str(values.get("lr_scheduler_type", "linear"))
    function = None
    with suppress(OSError, SyntaxError, LookupError, StopIteration):
        function = _read_function(name)
    try:
        if function is None:
            _make(name, options)
        else:
            function(_Optimizer(), **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_scheduler_kwargs do not fit the scheduler '{name}': {error}") from error


def _make(name: str, options: Mapping[str, Any]) -> None:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    get_scheduler(name, optimizer, 1, 10, scheduler_specific_kwargs=dict(options))


class _Optimizer:
    """What the functions ask of an optimizer."""

    defaults: Mapping[str, float] = {"lr": 1e-3}


def _read_function(name: str) -> Callable[..., None]:
    """The function that makes the scheduler, as its source says it; names from elsewhere are calls without effect.

    Raises LookupError where the source is not as expected.
    """
    spec = find_spec("transformers")
    folder = (spec.submodule_search_locations or [])[0] if spec else ""
    tree = ast.parse((Path(folder) / "optimization.py").read_text(encoding="utf-8"))
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_table(node)]
    table = next(table for table in tables if isinstance(table, ast.Dict))
    names = {ast.unparse(kind).rpartition(".")[2]: ast.unparse(made_by) for kind, made_by in _entries(table)}
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == names[name.upper()])
    own = {argument.arg for argument in node.args.args}
    elsewhere = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - {*dir(builtins)}
    scope: dict[str, Any] = dict.fromkeys(elsewhere, lambda *_, **__: None)
    # annotations name what is not imported here; as text they are not looked up
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module([node], []), "optimization.py", "exec", flags), scope)
    given = {key: value for key, value in GIVEN.items() if key in own}

    def ask(optimizer: _Optimizer, **options: Any) -> None:
        scope[node.name](optimizer, **{**given, **options})

    return ask


def _is_table(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "TYPE_TO_SCHEDULER_FUNCTION" for target in node.targets)


def _entries(table: ast.Dict) -> list[tuple[ast.expr, ast.expr]]:
    return [(kind, made_by) for kind, made_by in zip(table.keys, table.values, strict=True) if kind]
