"""YAML that remembers where each key was written, so that every later complaint can name file and line.

A `Block` is a dict, an `Items` a list; both answer `where(key)` with "file:line". Scalars follow YAML 1.2's core
schema: `no` stays a word (it is a value of `eval_strategy`), `2e-5` is a number.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ft.errors import Problem, Problems, UserError, fail
from ft.recipe.find import near_recipes


class Mark(NamedTuple):
    """Where a key was written: a file and its line, counted from 1, or an option of the command line with line 0."""

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

    def folder(self, key: str) -> Path:
        """What a path under `key` is relative to: the folder of the file that wrote it, or where the user stands."""
        mark = self.marks.get(key, self.mark)
        return Path(mark.file).parent if mark.line else Path()

    def put(self, key: str, value: object, mark: Mark) -> None:
        self[key], self.marks[key] = value, mark

    def copy(self) -> Block:
        return Block({k: _copy(v) for k, v in self.items()}, dict(self.marks), self.mark)


class Items(list[Any]):
    """A list of a recipe with the place of each item."""

    def __init__(self, values: list[Any], marks: list[Mark], mark: Mark):
        super().__init__(values)
        self.marks, self.mark = marks, mark

    def where(self, index: int) -> str:
        return str(self.marks[index])

    def put(self, index: int, value: object, mark: Mark) -> None:
        self[index], self.marks[index] = value, mark


def _copy(value: object) -> Any:
    if isinstance(value, Block):
        return value.copy()
    return Items([_copy(v) for v in value], list(value.marks), value.mark) if isinstance(value, Items) else value


MOST_BYTES = 1 << 20
MOST_VALUES = 20_000
MOST_DEPTH = 32
"""Of a recipe: bytes of its file, keys and values with every alias written out, blocks in blocks. Rows belong in files
of their own, and a few lines of aliases can stand for more values than any memory holds."""
UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """SafeLoader that builds Blocks and collects duplicate keys instead of keeping the last one in silence."""

    mark: Mark  # of the whole text
    problems: Problems

    def mark_of(self, node: yaml.Node) -> Mark:
        return Mark(self.mark.file, self.mark.line + node.start_mark.line) if self.mark.line else self.mark


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


def _scalar(read: Callable[[_Loader, yaml.ScalarNode], Any]) -> Callable[[_Loader, yaml.ScalarNode], Any]:
    """A constructor that says where a value is that its tag cannot hold (`!!int abc`)."""

    def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
        try:
            return read(loader, node)
        except (ValueError, KeyError):
            kind = node.tag.rpartition(":")[2]
            raise fail(str(loader.mark_of(node)), f"'{node.value[:40]}' is no {kind}", "Write another value.") from None

    return construct


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # YAML 1.1 reads 010 as octal 8


def _str(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    refuse_unwritable(text, str(loader.mark_of(node)))
    return text


def refuse_unwritable(text: str, where: str) -> None:
    """Raises UserError for what no path holds (NUL) and no file (half a character)."""
    if character := UNWRITABLE.search(text):
        raise fail(where, f"the character U+{ord(character[0]):04X} is not allowed", "Remove it.")


def _node_of(loader: _Loader, node: yaml.Node, kind: type[yaml.Node]) -> None:
    """Raises UserError where a tag is on something else (`!!map word`)."""
    if not isinstance(node, kind):
        what = f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} does not fit what stands here"
        raise fail(str(loader.mark_of(node)), what, "Remove it.")


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Block:
    _node_of(loader, node, yaml.MappingNode)
    marks: dict[str, Mark] = {}
    for key, _ in node.value:
        mark = loader.mark_of(key)
        if not isinstance(key, yaml.ScalarNode):
            loader.problems.add(str(mark), "a key must be a word", "Write `key: value`.")
        elif key.value in marks and key.tag != "tag:yaml.org,2002:merge":
            first = f", first at line {marks[key.value].line}" if mark.line else ""
            loader.problems.add(str(mark), f"'{key.value}' is written twice{first}", "Keep one.")
        else:
            refuse_unwritable(key.value, str(mark))
            marks[key.value] = mark
    loader.flatten_mapping(node)  # `<<: *anchor`
    block = Block({}, {}, loader.mark_of(node))
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            block.put(key.value, loader.construct_object(value, deep=True), loader.mark_of(key))
    return block


def _sequence(loader: _Loader, node: yaml.SequenceNode) -> Items:
    _node_of(loader, node, yaml.SequenceNode)
    values = [loader.construct_object(item, deep=True) for item in node.value]
    return Items(values, [loader.mark_of(item) for item in node.value], loader.mark_of(node))


# Only what JSON can hold: sets, dates and bytes would pass through to whoever writes the recipe down.
_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:str": _str,
    "tag:yaml.org,2002:bool": _scalar(yaml.SafeLoader.construct_yaml_bool),
    "tag:yaml.org,2002:float": _scalar(yaml.SafeLoader.construct_yaml_float),
    "tag:yaml.org,2002:int": _scalar(_int),
    "tag:yaml.org,2002:map": _mapping,
    "tag:yaml.org,2002:seq": _sequence,
    None: yaml.SafeLoader.construct_undefined,
}


def read_yaml(path: Path, problems: Problems) -> Block:
    """The file's mapping. Raises UserError where nothing more can be read (missing, not UTF-8, broken YAML)."""
    return parse_yaml(bounded_text(path), str(path), problems)


def parse_yaml(text: str, file: str, problems: Problems) -> Block:
    try:
        value = _value(text, Mark(file, 1), problems)
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, file, text) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise fail(f"{file}:{line}", f"the character {chr(error.character)!r} is not allowed", "Remove it.") from None
    if not isinstance(value, Block):
        what = "the recipe is empty" if value is None else "a recipe is a mapping of keys"
        raise fail(f"{file}:1", what, "Start with `model:` and `stages:`.")
    return value.copy()  # what an alias repeats is a value of its own: `--set` on one must not change the other


def parse_value(text: str, mark: Mark, problems: Problems) -> Any:
    """One value as YAML reads it, for `--set key=value`; what is no YAML is the words that were typed."""
    try:
        return _value(text, mark, problems)
    except yaml.YAMLError:
        return text


def _value(text: str, mark: Mark, problems: Problems) -> Any:
    loader = _Loader(text)
    loader.mark, loader.problems = mark, problems
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bomb(loader, node)
        return loader.construct_document(node)
    except RecursionError:
        raise _too_deep(str(mark)) from None
    finally:
        loader.dispose()


def _too_deep(where: str) -> UserError:
    return fail(where, f"more than {MOST_DEPTH} blocks stand in each other", "Write the recipe flatter.")


def _refuse_bomb(loader: _Loader, root: yaml.Node) -> None:
    """Raises UserError where the value would be too large or too deep, before any alias is written out."""
    sizes: dict[int, tuple[int, int]] = {}  # node → values in it, blocks in each other; an alias is the node it names

    def measure(node: yaml.Node, outer: tuple[int, ...]) -> tuple[int, int]:
        if id(node) in outer:
            raise fail(
                str(loader.mark_of(node)), "an anchor contains itself", "Remove the alias that closes the circle."
            )
        if len(outer) > MOST_DEPTH:
            raise _too_deep(str(loader.mark_of(node)))
        if id(node) not in sizes:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            nodes = [one for pair in inner for one in (pair if isinstance(pair, tuple) else (pair,))]
            measures = [measure(one, (*outer, id(node))) for one in nodes]
            sizes[id(node)] = 1 + sum(size for size, _ in measures), 1 + max((deep for _, deep in measures), default=0)
        return sizes[id(node)]

    values, depth = measure(root, ())
    if depth > MOST_DEPTH + 1:  # through an alias that was measured further out
        raise _too_deep(str(loader.mark))
    if values > MOST_VALUES:
        what = f"it holds {values:,} values, aliases written out; at most {MOST_VALUES:,} are read"
        raise fail(str(loader.mark), what, "Write rows and lists into files of their own.")


def in_file_order(problems: Problems, path: Path) -> Problems:
    """By line: those of the recipe's own file, of the files it extends, of --set."""

    def place(problem: Problem) -> tuple[int, str, int]:
        file, colon, line = problem.where.rpartition(":")
        if not colon or not line.isdigit():
            file, line = problem.where, "0"
        rank = 0 if file == str(path) else 2 if file.startswith("--set") else 1
        return rank, file if rank == 1 else "", int(line)

    return Problems(sorted(problems, key=place))


def bounded_text(path: Path, noun: str = "recipe") -> str:
    """What the file holds, which may be anything: a device, a pipe, or more than a `noun` ever is."""
    fix = f"Name the {noun}'s file."
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise fail(str(path), "this is a pipe or a device", fix)
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        beside = ", ".join(sorted(file.name for file in path.parent.glob("*.y*ml")))
        others = f"In that folder: {beside}." if beside else "`ft recipes` lists those that come with ft."
        raise fail(str(path), f"no such {noun}", near_recipes(str(path), Path()) or others) from None
    except IsADirectoryError:
        raise fail(str(path), "this is a folder", fix) from None
    except OSError as error:
        raise fail(str(path), f"cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        fix = "Write rows and lists into files of their own."
        raise fail(str(path), f"it is larger than {MOST_BYTES >> 20} MiB, the most that is read of a {noun}", fix)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise fail(str(path), "this is UTF-16 text", "Save the file as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fail(
            f"{path}:{line}", f"byte 0x{data[error.start]:02x} is not UTF-8", "Save the file as UTF-8."
        ) from None


def _yaml_error(error: yaml.MarkedYAMLError, file: str, text: str) -> UserError:
    """PyYAML's message in our form, by the faults people make: tabs, anchors, tags, quotes and indentation."""
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    number = min(mark.line + 1 if mark else 1, max(len(lines), 1))
    where, source = f"{file}:{number}", lines[number - 1] if lines else ""
    what = error.problem or "no reason is known"
    if "\\t" in what or "\t" in source[: len(source) - len(source.lstrip())]:
        return fail(where, "a tab indents this line", "Indent with spaces.")
    if "undefined alias" in what:
        return _no_anchor(what, where, lines[:number])
    if "could not determine a constructor" in what:
        tag = re.search(r"'(.+)'", what)
        tag_name = tag[1].replace("tag:yaml.org,2002:", "!!") if tag else "!python/…"
        return fail(where, f"the tag {tag_name} is not allowed", "Write plain YAML.")
    if "found another document" in what:
        return fail(where, "a second document begins here", "A file holds one recipe: remove the `---`.")
    if "unexpected end of stream" in what or "<stream end>" in what:
        opened = error.context_mark.line + 1 if error.context_mark else number
        return fail(f"{file}:{min(opened, number)}", "a quote or bracket opened here is never closed", "Close it.")
    return fail(where, f"this is not YAML: {what}", "Look at quotes, colons and indentation here.")


def _no_anchor(message: str, where: str, lines: list[str]) -> UserError:
    name = re.search(r"'(.+)'", message)
    anchors = re.findall(r"(?<!\S)&(\w[\w-]*)", "\n".join(lines))
    fix = f"There are: {', '.join(anchors)}." if anchors else "Write the value out, or name it with '&' first."
    return fail(where, f"no anchor '&{name[1] if name else '?'}' above", fix)
