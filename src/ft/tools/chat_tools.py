"""The tools of a chat: functions of the user's own Python file, or schemas alone, and what becomes of a model's calls.

Nothing is run but functions that the file itself defines, by name, when the model asks for one and the user agrees.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ft.data.formats.fields import BadRow, Row, read_columns
from ft.errors import fail

Confirm = Callable[[str], bool]


@dataclass(frozen=True)
class ChatTools:
    """`schemas` are shown to the model, `functions` can be run; `confirm` is asked before each call."""

    schemas: list[Row]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    confirm: Confirm = lambda call: False

    def result(self, call: Row) -> str:
        """What goes back to the model: the function's value as text or JSON, or why there is none."""
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        function = self.functions.get(name)
        if function is None:
            return f"error: there is no tool {name}; there are: {', '.join(self.functions)}"
        try:
            inspect.signature(function).bind(**arguments)
        except TypeError as error:
            return f"error: {error}"
        if not self.confirm(call_text(call)):
            return "error: the user did not allow this call"
        try:
            value = function(**arguments)
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        except KeyboardInterrupt:
            return "error: the user stopped it"
        except (Exception, SystemExit) as error:  # the user's own code may end in any way; the chat goes on
            return f"error: {type(error).__name__}: {error}"


def call_text(call: Row) -> str:
    """A call as Python writes it: `add(a=3, b=2)`."""
    function = call["function"]
    return f"{function['name']}({', '.join(f'{key}={value!r}' for key, value in function['arguments'].items())})"


def read_tools(path: Path, confirm: Confirm) -> ChatTools:
    """The tools that a .py file defines or a .json file describes. Raises UserError."""
    if not path.is_file():
        raise fail("--tools", f"no file {path}", "Name a .py file of functions, or a .json file of schemas.")
    if path.suffix == ".py":
        return _of_functions(path, confirm)
    if path.suffix != ".json":
        raise fail("--tools", f"{path} is neither .py nor .json", "Write functions, or a list of schemas.")
    try:
        tools = read_columns({"tools": path.read_text(encoding="utf-8")}).get("tools")
    except (BadRow, OSError, UnicodeDecodeError) as error:
        raise fail(str(path), str(error), "Write a list of function schemas.") from error
    if not tools:
        raise fail(str(path), "it describes no tool", "Write a list of function schemas.")
    return ChatTools(tools)


def _of_functions(path: Path, confirm: Confirm) -> ChatTools:
    from transformers.utils import get_json_schema

    module = _load(path)
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    if not functions:
        raise fail(str(path), "it defines no function", "Define one, or name another file.")
    schemas = []
    for name, function in functions.items():
        try:
            schemas.append(get_json_schema(function))
        except Exception as error:  # of several kinds, each with a sentence of its own
            fix = "Give every parameter a type, and a line under `Args:` in the docstring; or begin the name with _."
            raise fail(f"{path}: {name}", f"it cannot be described: {error}", fix) from error
    return ChatTools(schemas, functions, confirm)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("chat_tools_of_the_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may end in any way
        raise fail(str(path), f"it ends with {type(error).__name__}: {error}", "Make it importable.") from error
    return module
