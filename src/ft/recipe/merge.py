"""One recipe out of several writings: `extends:` takes a recipe over key by key, `--set` overrides one key."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ft.errors import Problems, fail
from ft.hub import exists, is_folder
from ft.recipe.find import bundled_recipes, near_recipes
from ft.recipe.yaml import MOST_DEPTH, Block, Items, Mark, parse_value, read_yaml, refuse_unwritable
from ft.secrets import hide


def read_tree(path: Path, sets: Sequence[str], problems: Problems) -> Block:
    """The recipe's whole mapping after `extends` and `--set`, each key still knowing where it was written."""
    tree = _extend(path, (), problems)
    for words in sets:
        _set(tree, words, problems)
    return tree


def read_sets(path: Path, sets: Sequence[str]) -> Block:
    """What `--set` says of a recipe, as one that extends it would write it: no key but those that are set, and of its
    stages only those that have some. Raises UserError."""
    problems = Problems()
    whole = _extend(path, (), problems)
    mark, stages = whole.mark, whole.get("stages")
    names = [name for name, _, _ in _stages(stages)] if isinstance(stages, Items) else []
    blocks = [Block({"name": name}, {"name": mark}, mark) for name in names]
    # keys without a mark are there to be known, and leave again
    tree = Block({**dict.fromkeys(whole), "stages": Items(blocks, [mark] * len(blocks), mark)}, {}, mark)
    for words in sets:
        if any(part.isdigit() for part in words.partition("=")[0].split(".")):
            problems.add(f"--set {words.partition('=')[0]}", "one of a list cannot be set in a new recipe", "Edit it.")
        else:
            _set(tree, words, problems)
    problems.raise_any()
    changed = [block for block in blocks if len(block) > 1]
    keys = {key: value for key, value in tree.items() if key in tree.marks}
    return Block({**keys, "stages": Items(changed, [mark] * len(changed), mark)}, tree.marks, mark)


def recipe_name(path: Path, name: str | None = None) -> str:
    """The folder of a recipe's results in a runs folder: the `name` that the recipe gives itself (never one that it
    inherits), else its folder and its file: tiny-chat of recipes/tiny/chat.yaml."""
    return name or f"{path.resolve().parent.name}-{path.stem}"


def read_name(path: Path) -> str:
    """The `recipe_name` of a recipe's file, whatever else is wrong in it. Raises UserError where there is no file."""
    name = read_yaml(path, Problems()).get("name")
    return recipe_name(path, name if isinstance(name, str) else None)


def changes(path: Path, sets: Sequence[str], problems: Problems) -> list[tuple[str, str, str]]:
    """What the recipe says after `--set` and the one it extends says differently: (key, there, here); '' where a side
    has no such key. A recipe that extends none is compared with itself before `--set`."""
    block = read_yaml(path, problems)
    parent = _parent(path, block) if "extends" in block else path
    parent_values = dict(_flat(_extend(parent, (), problems)))
    values = dict(_flat(read_tree(path, sets, problems)))
    keys = [k for k in {**parent_values, **values} if parent_values.get(k) != values.get(k)]
    keys = [k for k in keys if k != f"{values.get(k)}.name"]  # a stage that was called so by its kind
    return [(k, parent_values.get(k, ""), values.get(k, "")) for k in keys]


def _parent(path: Path, block: Block) -> Path:
    name = block["extends"]
    if not isinstance(name, str):
        raise fail(block.where("extends"), "extends names one recipe file", "Write `extends: other.yaml`.")
    parent = path.parent / name
    if not exists(parent) or is_folder(parent):
        parent = bundled_recipes().get(name, parent)
    if not exists(parent) or is_folder(parent):
        hint = near_recipes(name, path.parent) or "The path is relative to this file."
        raise fail(block.where("extends"), f"no recipe {parent}", hint)
    return parent


def _extend(path: Path, descendants: tuple[Path, ...], problems: Problems) -> Block:
    block = read_yaml(path, problems)
    if path.resolve() in descendants:
        raise fail(block.where("extends"), f"{path} extends itself", "Break the circle.")
    if "extends" not in block:
        return block
    parent = _extend(_parent(path, block), (*descendants, path.resolve()), problems)
    del block["extends"]
    parent.pop("name", None)  # a fork has its own name, or its file's
    return _merge(parent, block)


def _merge(below: Block, above: Block) -> Block:
    merged = below.copy()
    merged.mark = above.mark
    for key, value in above.items():
        old = _expand(merged, key) if isinstance(value, Block) else merged.get(key)
        if key == "stages" and isinstance(old, Items) and isinstance(value, Items):
            value = _merge_stages(old, value)
        elif isinstance(old, Block) and isinstance(value, Block):
            value = _merge(old, value)
        merged.put(key, value, above.marks[key])
    return merged


def _merge_stages(below: Items, above: Items) -> Items:
    """Stages of the same name are merged key by key, those in rounds too; new ones come last, in their order."""
    merged = Items(list(below), list(below.marks), above.mark)
    used: Counter[str] = Counter()  # a second of a name is one too many, and is reported when the recipe is read
    for stage, mark in zip(above, above.marks, strict=True):
        name = stage_name(stage)
        same = [(items, place) for below_name, items, place in _stages(merged) if name and below_name == name]
        if used[name] < len(same):
            items, place = same[used[name]]
            items.put(place, _merge(items[place], stage), mark)
        else:
            merged.append(stage)
            merged.marks.append(mark)
        used[name] += 1
    return merged


def _stages(stages: Items) -> Iterator[tuple[str, Items, int]]:
    """(name, list, place in it) of every stage and of every `rounds:`, whose stages follow it."""
    for place, stage in enumerate(stages):
        yield stage_name(stage), stages, place
        rounds = stage.get("rounds") if isinstance(stage, Block) else None
        if isinstance(rounds, Block) and isinstance(rounds.get("stages"), Items):
            yield from _stages(rounds["stages"])


def stage_name(stage: object) -> str:
    """A stage is called by its `name`, or by its kind, and rounds are called so; '' for what is no stage."""
    if not isinstance(stage, Block):
        return ""
    if "rounds" in stage:
        return "rounds"
    return str(next((stage[key] for key in ("name", "kind", "stage") if stage.get(key)), ""))


def _set(tree: Block, words: str, problems: Problems) -> None:
    path, equals, text = words.partition("=")
    if not equals or not path:
        problems.add(f"--set {hide(words)}", "this sets nothing", "Write `--set stage.block.key=value`.")
        return
    mark = Mark(f"--set {path}", 0)  # without the value, which may be a secret
    refuse_unwritable(words, str(mark))
    keys = path.split(".")
    if len(keys) > MOST_DEPTH:
        problems.add(str(mark), f"{len(keys):,} blocks in each other", "Write `--set stage.block.key=value`.")
        return
    at: Any = tree
    stage_list = tree.get("stages")
    stages = {name: items[place] for name, items, place in _stages(stage_list)} if isinstance(stage_list, Items) else {}
    stages.pop("", None)
    if keys[0] in stages and keys[0] not in tree:
        at, keys = stages[keys[0]], keys if keys[0] == "rounds" else keys[1:]
    elif len(keys) > 1 and keys[0] not in tree:
        near = difflib.get_close_matches(keys[0], [*stages], n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Stages: {', '.join(stages) or 'none'}."
        problems.add(str(mark), f"no stage '{keys[0]}'", hint)
        return
    for key in keys[:-1]:
        at = _below(at, key, mark, problems)
        if at is None:
            return
    last = keys[-1] if keys else ""
    if isinstance(at, Items) and last.isdigit() and int(last) < len(at):
        at.put(int(last), parse_value(text, mark, problems), mark)
    elif isinstance(at, Block) and last:
        at.put(last, parse_value(text, mark, problems), mark)
    else:
        problems.add(str(mark), f"there is nothing to set at '{path}'", f"Stages: {', '.join(stages)}.")


def _below(at: object, key: str, mark: Mark, problems: Problems) -> Any:
    if isinstance(at, Block):
        if not isinstance(_expand(at, key), (Block, Items)):
            at.put(key, Block({}, {}, mark), mark)
        return at[key]
    if isinstance(at, Items) and key.isdigit() and int(key) < len(at):
        if isinstance(at[int(key)], str):
            at.put(int(key), Block({"path": at[int(key)]}, {"path": at.marks[int(key)]}, at.marks[int(key)]), mark)
        return at[int(key)]
    problems.add(str(mark), f"no '{key}' there", "Name a stage, then its block and key: `sft.train.max_steps=10`.")
    return None


def _expand(block: Block, key: str) -> Any:
    """`block[key]`, with `model: name` and `data: name` written out, so that one key of them can be set."""
    mark = block.marks.get(key, block.mark)
    if key in ("model", "data", "eval_data") and isinstance(block.get(key), str):
        block.put(key, Block({"path": block[key]}, {"path": mark}, mark), mark)
    if key in ("data", "eval_data") and isinstance(block.get(key), Block):
        block.put(key, Items([block[key]], [mark], mark), mark)
    return block.get(key)


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Block):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, Items) and value and all(isinstance(v, Block) for v in value):
        for place, inner in enumerate(value):
            name = stage_name(inner) if prefix == "stages" else str(place)
            yield from _flat(inner, name if prefix == "stages" else f"{prefix}.{name}")
    else:
        yield prefix, str(list(value) if isinstance(value, Items) else value)
