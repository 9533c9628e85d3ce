"""YAML that remembers where each key was written, so that every later complaint can name file and line.

A `Block` is a dict, an `Items` a list; both answer `where(key)` with "file:line". Scalars follow YAML 1.2's core
schema: `no` stays a word (it is a value of `eval_strategy`), `2e-5` is a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ft.errors import Problems, UserError, fail


class Mark(NamedTuple):
    """Where a key was written: a file and its line, counted from 1, or a command line's words with line 0."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Block(dict[str, Any]):
    """A mapping of a recipe; `marks` says where each key stands, `mark` where the block begins."""

    def __init__(self, values: dict[str, Any], marks: dict[str, Mark], mark: Mark):
        super().__init__(values)
        self.marks, self.mark = marks, mark

    def where(self, key: str | None = None) -> str:
        return str(self.marks.get(key, self.mark) if key is not None else self.mark)

    def file(self, key: str) -> Path:
        """The file that wrote `key`: relative paths are relative to it, also after `extends`."""
        return Path(self.marks.get(key, self.mark).file)

    def put(self, key: str, value: Any, mark: Mark) -> None:
        self[key], self.marks[key] = value, mark

    def copy(self) -> Block:
        return Block({k: _copied(v) for k, v in self.items()}, dict(self.marks), self.mark)


class Items(list[Any]):
    """A list of a recipe with the place of each item."""

    def __init__(self, values: list[Any], marks: list[Mark], mark: Mark):
        super().__init__(values)
        self.marks, self.mark = marks, mark

    def where(self, index: int) -> str:
        return str(self.marks[index])


def _copied(value: Any) -> Any:
    if isinstance(value, Block):
        return value.copy()
    return Items([_copied(v) for v in value], list(value.marks), value.mark) if isinstance(value, Items) else value


class _Loader(yaml.SafeLoader):
    """SafeLoader that builds Blocks and collects duplicate keys instead of keeping the last one in silence."""

    file: str
    problems: Problems

    def mark_of(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), "-+0123456789")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.nan$"
    ),
    "-+.0123456789",
)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # YAML 1.1 reads 010 as octal 8


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Block:
    written: dict[str, Mark] = {}
    for key, _ in node.value:
        mark = loader.mark_of(key)
        if not isinstance(key, yaml.ScalarNode):
            loader.problems.add(str(mark), "a key must be a word", "Write `key: value`.")
        elif key.value in written and key.tag != "tag:yaml.org,2002:merge":
            loader.problems.add(
                str(mark), f"'{key.value}' is written twice, first at line {written[key.value].line}", "Keep one."
            )
        else:
            written[key.value] = mark
    loader.flatten_mapping(node)  # `<<: *anchor`
    block = Block({}, {}, loader.mark_of(node))
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            block.put(key.value, loader.construct_object(value, deep=True), loader.mark_of(key))
    return block


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> Items:
    values = [loader.construct_object(item, deep=True) for item in node.value]
    return Items(values, [loader.mark_of(item) for item in node.value], loader.mark_of(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _sequence)


def read_yaml(path: Path, problems: Problems) -> Block:
    """The file's mapping. Raises UserError where nothing more can be read (missing, not UTF-8, broken YAML)."""
    return parse_yaml(_text(path), str(path), problems)


def parse_yaml(text: str, file: str, problems: Problems) -> Block:
    loader = _Loader(text)
    loader.file, loader.problems = file, problems
    try:
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        raise _broken(error, file, text) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise fail(f"{file}:{line}", f"the character {error.character!r} is not allowed", "Remove it.") from None
    except RecursionError:
        raise fail(file, "an anchor contains itself", "Remove the alias that closes the circle.") from None
    finally:
        loader.dispose()
    if not isinstance(value, Block):
        what = "the recipe is empty" if value is None else "a recipe is a mapping of keys"
        raise fail(f"{file}:1", what, "Start with `model:` and `stages:`.")
    return value


def parse_value(text: str) -> Any:
    """One value as YAML reads it, for `--set key=value`."""
    problems = Problems()
    loader = _Loader(text)
    loader.file, loader.problems = "--set", problems
    try:
        value = loader.get_single_data()
    except yaml.YAMLError:
        return text  # not YAML: taken as the words that were typed
    problems.raise_any()
    return value


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml"))
        raise fail(str(path), "no such recipe", f"In that folder: {', '.join(near)}." if near else "") from None
    except IsADirectoryError:
        raise fail(str(path), "this is a folder", "Name the recipe's .yaml file.") from None
    except OSError as error:
        raise fail(str(path), f"cannot be read ({error.strerror})") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(
            f"{path}:{line}", f"byte 0x{data[error.start]:02x} is not UTF-8", "Save the file as UTF-8."
        ) from None


def _broken(error: yaml.MarkedYAMLError, file: str, text: str) -> UserError:
    """PyYAML's message in our form, for the three faults people make: tabs, unknown anchors, indentation."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = error.problem or "this is not YAML"
    source = text.splitlines()[line - 1] if line <= text.count("\n") + 1 and text.splitlines() else ""
    if "\\t" in what or "\t" in source[: len(source) - len(source.lstrip())]:
        return fail(f"{file}:{line}", "a tab indents this line", "Indent with spaces.")
    if "undefined alias" in what:
        name = re.search(r"'(.+)'", what)
        known = re.findall(r"&(\w[\w-]*)", "\n".join(text.splitlines()[:line]))
        return fail(
            f"{file}:{line}",
            f"no anchor '&{name[1] if name else '?'}' above",
            f"There are: {', '.join(known)}." if known else "Write the value out, or name it with '&' first.",
        )
    if "could not determine a constructor" in what:
        return fail(f"{file}:{line}", "tags such as `!python/...` are not allowed", "Write plain YAML.")
    return fail(f"{file}:{line}", f"this is not YAML: {what}", "Look at quotes, colons and indentation here.")
