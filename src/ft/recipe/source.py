"""A library's class made from its source alone, without importing the library.

`import trl` takes seconds, for torch, models and kernels, and a configuration class needs none of them. Here a module
is parsed, and only the statements run, by Python itself, that a name asked for stands on: `SFTConfig` comes out as the
dataclass it is, with the fields, defaults and `__post_init__` of whichever version is installed. What would touch the
machine (torch, process groups, logging) is a `Symbol`, a value nobody knows. `construct` builds an object as on a
machine without an accelerator; a condition on a symbol is followed both ways, as symbolic execution does, and where the
answer depends on it `Undecided` is raised: then the class must be imported and asked.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import copy
import dis
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ft.recipe.symbolic import ExecutionPath, Symbol, Undecided, following, paths

EXECUTED = ("ft", "trl", "transformers", "peft", "accelerate", "huggingface_hub")
"""Packages whose statements are run; those of others are symbols."""

IMPORTED = frozenset((*sys.stdlib_module_names, "packaging", "typing_extensions", "yaml"))
"""Packages that are imported as they are: small, and without effects."""

SYMBOLIC = ("logging", "accelerate.state", "transformers.utils.auto_docstring")
"""Modules that log, ask the machine, or write documentation: symbols, though they could be run."""


@cache
def read_class(path: str) -> type | None:
    """The class "module:Name"; None where its source cannot be run without what it imports."""
    module, name = path.split(":")
    try:
        symbol = getattr(_module(module), name)
    except (Exception, Undecided):  # whatever a library's source does: the class is imported instead
        return None
    return symbol if isinstance(symbol, type) else None


def is_symbolic(annotation: Any) -> bool:
    """Whether a type names something of a library that was not run."""
    return isinstance(annotation, Symbol) or any(map(is_symbolic, getattr(annotation, "__args__", ())))


# Modules: statements that run when their names are asked for


class _Globals(dict[str, Any]):
    """A module's globals. Python looks names up in a subclass of dict by `__getitem__`, so that a function's globals
    are made when it first runs."""

    def __init__(self, name: str, file: Path):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        self.file, self.package = str(file), name if file.name == "__init__.py" else ""
        self.flags = __future__.annotations.compiler_flag if _postpones_annotations(tree) else 0
        self.statements: dict[str, list[tuple[tuple[ast.expr, ...], ast.stmt]]] = {}
        self.running: set[str] = set()
        names = {"__name__": MODULE_PREFIX + name, "__package__": self.package or name.rpartition(".")[0]}
        super().__init__(names, __file__=self.file, __builtins__=_BUILTINS)
        self._index(tree.body, ())

    def __missing__(self, name: str) -> Any:
        if name in self.running:  # a name in its own definition
            raise KeyError(name)
        self.running.add(name)
        try:
            self._define(name)
        finally:
            self.running.discard(name)
        return self[name] if name in self else self._from_package(name)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def _index(self, body: Iterable[ast.stmt], tests: tuple[ast.expr, ...]) -> None:
        """Name → the statements that make it, each with the `if`s it stands under."""
        for node in body:
            if isinstance(node, ast.If):
                self._index(node.body, (*tests, node.test))
                opposite = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
                self._index(node.orelse, (*tests, opposite))
            else:
                for name, statement in _definitions(node):
                    self.statements.setdefault(name, []).append((tests, statement))

    def _define(self, name: str) -> None:
        statements = self.statements.get(name, ())
        for tests, statement in statements:
            if all(self._holds(test) for test in tests):
                self._run(statement)
        if self.package and name not in self:  # a package that loads lazily names its parts for type checkers
            for tests, statement in statements:
                if any(isinstance(test, ast.Name) and test.id == "TYPE_CHECKING" for test in tests):
                    self._run(statement)

    def _from_package(self, name: str) -> Any:
        """What `from .x import *` brings, or a module of the package."""
        for _, statement in self.statements.get("*", ()):
            assert isinstance(statement, ast.ImportFrom)
            relative = "." * statement.level + (statement.module or "")
            module = _module(importlib.util.resolve_name(relative, self["__package__"]))
            if name in getattr(module.__dict__, "statements", ()):
                self[name] = getattr(module, name)
                return self[name]
        if not self.package or name.startswith("__") or not _file(f"{self.package}.{name}"):
            raise KeyError(name)
        self[name] = _module(f"{self.package}.{name}")
        return self[name]

    def _holds(self, test: ast.expr) -> bool:
        code = compile(ast.Expression(test), self.file, "eval", self.flags, dont_inherit=True)
        return bool(eval(code, self))

    def _run(self, statement: ast.stmt) -> None:
        for name in _names_in_classes(statement, bool(self.flags)):  # there Python does not ask `__missing__`
            self.get(name)
        code = compile(ast.Module([statement], []), self.file, "exec", self.flags, dont_inherit=True)
        exec(code, self)


class _Module:
    """What `import` gives to executed code."""

    def __init__(self, namespace: _Globals):
        self.__dict__ = namespace

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(name) from None


def _postpones_annotations(tree: ast.Module) -> bool:
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__")
    return any(alias.name == "annotations" for node in imports for alias in node.names)


def _definitions(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """The names that a statement makes or changes; an import of several names is taken apart."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            if isinstance(node, ast.Import):
                single: ast.stmt = ast.Import([alias])
            else:
                single = ast.ImportFrom(node.module, [alias], node.level)
            yield alias.asname or alias.name.partition(".")[0], ast.copy_location(single, node)
    elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, node
    else:
        for name in dict.fromkeys(_changes(node)):
            yield name, node


def _changes(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Expr):
        called = node.value.func if isinstance(node.value, ast.Call) else None  # `table.update(…)`
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            yield called.value.id
    elif isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)):
        yield from (name for name, _ in _definitions(node))
    elif isinstance(node, ast.stmt):
        for target in (*getattr(node, "targets", ()), getattr(node, "target", None)):
            yield from (one.id for one in ast.walk(target or ast.Pass()) if isinstance(one, ast.Name))
        blocks = (getattr(node, name, ()) for name in ("body", "orelse", "finalbody"))
        handled = (handler.body for handler in getattr(node, "handlers", ()))
        for block in (*blocks, *handled):
            for inner in block:
                yield from _changes(inner)


def _names_in_classes(statement: ast.AST, postponed: bool) -> Iterator[str]:
    """Names that are looked up while a class's body runs; those of postponed annotations are not."""
    for node in ast.walk(statement):
        if isinstance(node, ast.ClassDef):
            yield from _names_outside_functions(node, postponed)


def _names_outside_functions(node: ast.AST, postponed: bool) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    parts: Iterable[ast.AST | None] = ast.iter_child_nodes(node)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parts = [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults]
        parts = parts if postponed else [*parts, node.returns, *ast.walk(node.args)]
    elif isinstance(node, ast.Lambda):
        parts = [*node.args.defaults, *node.args.kw_defaults]
    elif isinstance(node, ast.AnnAssign) and postponed:
        parts = [node.value]
    for part in parts:
        if part:
            yield from _names_outside_functions(part, postponed)


MODULE_PREFIX = "source of "
"""Before a module's name, so that nothing takes it for the imported one."""


def _import(
    name: str,
    scope: Mapping[str, Any] | None = None,
    local: Any = None,
    names: Iterable[str] | None = None,
    level: int = 0,
) -> Any:
    """`__import__` of executed code."""
    package = scope["__package__"] if scope else ""
    whole = importlib.util.resolve_name("." * level + name, package) if level else name
    if whole.partition(".")[0] in IMPORTED and not _is_symbolic_module(whole):
        return __import__(whole, fromlist=tuple(names or ()))
    module = _module(whole)
    return module if names else _module(whole.partition(".")[0])


_BUILTINS = vars(builtins) | {"__import__": _import}


def _is_symbolic_module(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in SYMBOLIC)


@cache
def _module(name: str) -> Any:
    """The module as executed code gets it: run, imported or a symbol. Raises ModuleNotFoundError."""
    top = name.partition(".")[0]
    if _is_symbolic_module(name):
        return Symbol(name)
    if top not in EXECUTED and importlib.util.find_spec(top):
        return Symbol(name)
    file = _file(name) if top in EXECUTED else None
    if not file:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)
    module = _Module(_Globals(name, file))
    sys.modules[MODULE_PREFIX + name] = module  # type: ignore[assignment]  # where dataclasses and typing look names up
    return module


@cache
def _file(name: str) -> Path | None:
    """A module's file, found without importing the packages it is in."""
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


# Objects


def construct(read: type, values: Mapping[str, Any], forced: Mapping[str, Any]) -> None:
    """Let a class from `read_class` check `values`, and what is `forced` on it beside them, by its constructor.

    Raises what the class raises, where it refuses them whatever the symbols are; Undecided where that depends on them.
    """
    words = frozenset(value for value in values.values() if isinstance(value, str))
    default_calls = _calls(read, tuple(forced.items()))
    outcomes = [_attempt(read, {**values, **forced}, path) for path in paths(words, default_calls)]
    errors = [error for error in outcomes if error]
    if errors and (len(errors) < len(outcomes) or len(set(map(str, errors))) > 1):
        raise Undecided(str(errors[0]))
    if errors:
        raise errors[0]


@cache
def _calls(read: type, forced: tuple[tuple[str, Any], ...]) -> frozenset[str]:
    """What a class calls of symbols when it is made of its defaults, which it takes."""
    calls: set[str] = set()
    for path in paths(frozenset(), None):
        with suppress(Exception, Undecided):
            _attempt(read, dict(forced), path)
        calls |= path.calls
    return frozenset(calls)


def _attempt(read: type, arguments: Mapping[str, Any], path: ExecutionPath) -> Exception | None:
    """What the class says on this path; an error that is not its own `raise` is Undecided."""
    try:
        with following(path):
            read(**copy.deepcopy(dict(arguments)))
        return None
    except Exception as error:
        if path.in_text or not _raised_by_source(error):
            raise Undecided(str(error)) from error
        return error


def _raised_by_source(error: Exception) -> bool:
    """Whether a `raise` of executed code made the error, and not a symbol where Python wants a value."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals["__name__"].startswith(MODULE_PREFIX):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
