"""One recipe out of several writings: `extends:` takes a recipe over key by key, `--set` overrides one key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ft.errors import Problems, fail
from ft.recipe.blocks import Block, Items, Mark, parse_value, read_yaml


def read_tree(path: Path, sets: Sequence[str], problems: Problems) -> Block:
    """The recipe's whole mapping after `extends` and `--set`, each key still knowing where it was written."""
    tree = _extended(path, (), problems)
    for words in sets:
        _set(tree, words, problems)
    return tree


def changes(path: Path, problems: Problems) -> list[tuple[str, str, str]]:
    """What the recipe says differently from the one it extends: (key, there, here); '' where a side has no such key."""
    own = read_yaml(path, problems)
    if "extends" not in own:
        return []
    there = dict(_flat(_extended(_parent(path, own), (), problems)))
    here = dict(_flat(_extended(path, (), problems)))
    keys = [k for k in {**there, **here} if there.get(k) != here.get(k)]
    return [(k, there.get(k, ""), here.get(k, "")) for k in keys]


def _parent(path: Path, own: Block) -> Path:
    name = own["extends"]
    if not isinstance(name, str):
        raise fail(own.where("extends"), "extends names one recipe file", "Write `extends: other.yaml`.")
    parent = path.parent / name
    if not parent.exists():
        raise fail(own.where("extends"), f"no recipe {parent}", "The path is relative to this file.")
    return parent


def _extended(path: Path, seen: tuple[Path, ...], problems: Problems) -> Block:
    own = read_yaml(path, problems)
    if path.resolve() in seen:
        raise fail(own.where("extends"), f"{path} extends itself", "Break the circle.")
    if "extends" not in own:
        return own
    below = _extended(_parent(path, own), (*seen, path.resolve()), problems)
    del own["extends"]
    below.pop("name", None)  # a fork has its own name, or its file's
    return _merged(below, own)


def _merged(below: Block, above: Block) -> Block:
    merged = below.copy()
    merged.mark = above.mark
    for key, value in above.items():
        old = merged.get(key)
        if key == "stages" and isinstance(old, Items) and isinstance(value, Items):
            value = _merged_stages(old, value)
        elif isinstance(old, Block) and isinstance(value, Block):
            value = _merged(old, value)
        merged.put(key, value, above.marks[key])
    return merged


def _merged_stages(below: Items, above: Items) -> Items:
    """Stages of the same name are merged key by key; new ones come last, in their order."""
    merged = Items(list(below), list(below.marks), above.mark)
    names = [stage_name(s) for s in merged]
    for stage, mark in zip(above, above.marks, strict=True):
        if isinstance(stage, Block) and stage_name(stage) in names:
            place = names.index(stage_name(stage))
            merged[place] = _merged(merged[place], stage)
        else:
            merged.append(stage)
            merged.marks.append(mark)
            names.append(stage_name(stage))
    return merged


def stage_name(stage: Any) -> str:
    """A stage is called by its `name`, or by its kind."""
    return str(stage.get("name") or stage.get("kind") or stage.get("stage")) if isinstance(stage, Block) else ""


def _set(tree: Block, words: str, problems: Problems) -> None:
    mark = Mark(f"--set {words}", 0)
    path, equals, text = words.partition("=")
    if not equals or not path:
        problems.add(str(mark), "this sets nothing", "Write `--set stage.block.key=value`.")
        return
    keys = path.split(".")
    at: Any = tree
    stages = {stage_name(s): s for s in tree.get("stages", []) if isinstance(s, Block)}
    if keys[0] in stages and keys[0] not in tree:
        at, keys = stages[keys[0]], keys[1:]
    for key in keys[:-1]:
        at = _below(at, key, mark, problems)
        if at is None:
            return
    last = keys[-1] if keys else ""
    if isinstance(at, Items) and last.isdigit() and int(last) < len(at):
        at[int(last)] = parse_value(text)
    elif isinstance(at, Block) and last:
        at.put(last, parse_value(text), mark)
    else:
        problems.add(str(mark), f"there is nothing to set at '{path}'", f"Stages: {', '.join(stages)}.")


def _below(at: Any, key: str, mark: Mark, problems: Problems) -> Any:
    if isinstance(at, Block):
        if not isinstance(at.get(key), (Block, Items)):
            at.put(key, Block({}, {}, mark), mark)
        return at[key]
    if isinstance(at, Items) and key.isdigit() and int(key) < len(at):
        return at[int(key)]
    problems.add(str(mark), f"no '{key}' there", "Name a stage, then its block and key: `sft.train.max_steps=10`.")
    return None


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Block):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, Items) and value and all(isinstance(v, Block) for v in value):
        for place, inner in enumerate(value):
            name = stage_name(inner) if prefix == "stages" else str(place)
            yield from _flat(inner, name if prefix == "stages" else f"{prefix}.{name}")
    else:
        yield prefix, str(list(value) if isinstance(value, Items) else value)
