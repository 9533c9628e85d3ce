"""The recipe's text: YAML with a comment wherever the reader of the config would ask why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ft.recipe.write import relative_path, yaml_value
from ft.recipe.yaml import Block, Items
from ft.tools.importing.draft import Omission, StageDraft

WIDTH = 100
BLOCK_ORDER = ("data", "eval_data", "rows", "lora", "quantization", "train")


def recipe_text(tree: Block, drafts: Sequence[StageDraft], folder: Path, to: Path | None) -> str:
    """The whole file; paths in it are relative to `folder`."""
    names = list(dict.fromkeys(f"{draft.peer}'s {draft.config.path.name}" for draft in drafts))
    lines = _comment(f"Made by `ft import` of {' and '.join(names)}.", "")
    if to:
        lines += _comment(f"Next: ft plan {to}, then ft show {to}", "")
    lines += _top(tree, folder, drafts[0].comments)
    lines += ["", "stages:"]
    for stage, draft in zip(tree["stages"], drafts, strict=True):
        lines += [*_stage(stage, draft, folder), ""]
    return "\n".join(lines).rstrip() + "\n"


def _top(tree: Block, folder: Path, comments: Mapping[tuple[str, str], str]) -> Iterator[str]:
    model = tree.get("model")
    if isinstance(model, Block):
        yield "model:"
        for key, value in sorted(model.items(), key=lambda item: item[0] != "path"):
            relative = _from(value, folder) if key == "path" else value
            yield f"  {key}: {yaml_value(relative)}{_remark(comments, 'model', key)}"
    elif model is not None:
        yield f"model: {yaml_value(_from(model, folder))}{_remark(comments, 'model', 'path')}"
    if template := tree.get("chat_template"):
        yield from _template(template)
    if "seed" in tree:
        yield f"seed: {yaml_value(tree['seed'])}"


def _template(template: str) -> Iterator[str]:
    """Jinja text stands as a block where YAML gives back the very same text."""
    lines = template.split("\n")
    if len(lines) > 1 and lines[-1] and not lines[0].startswith(" ") and all(map(_stands_in_a_block, lines)):
        yield "chat_template: |-"
        yield from (f"  {line}" if line else "" for line in lines)
    else:
        yield f"chat_template: {yaml_value(template)}"


def _stands_in_a_block(line: str) -> bool:
    return line == line.rstrip() and line.isprintable()


def _stage(stage: Block, draft: StageDraft, folder: Path) -> Iterator[str]:
    yield from _comment(f"{draft.config.path.name}, a config of {draft.peer}.", "  ")
    if draft.nearest:
        yield from _comment(draft.nearest, "  ")
    if draft.differences:
        yield "  # What differs:"
        for difference in draft.differences:
            yield from _comment(f"- {difference}", "  ", hanging="  ")
    head = [key for key in ("kind", "name", "init", "inputs") if key in stage]
    for place, key in enumerate(head):
        remark = f" # {draft.model['path']} there" if key == "init" and draft.model else ""
        yield f"  {'-' if place == 0 else ' '} {key}: {yaml_value(stage[key])}{remark}"
    for key in sorted((key for key in stage if key not in head), key=_order):
        yield from _part(key, stage[key], draft.comments, folder)
    yield from _left_out(draft)


def _order(key: str) -> int:
    return BLOCK_ORDER.index(key) if key in BLOCK_ORDER else len(BLOCK_ORDER)


def _part(key: str, value: Any, comments: Mapping[tuple[str, str], str], folder: Path) -> Iterator[str]:
    if isinstance(value, Items):
        yield f"    {key}:"
        for source in value:
            relative = Block({**source, "path": _from(source["path"], folder)}, source.marks, source.mark)
            yield f"      - {yaml_value(relative)}"
    elif not value:
        yield f"    {key}: {{}}"
    else:
        yield f"    {key}:"
        for inner, inner_value in _by_line(value):
            yield f"      {inner}: {yaml_value(inner_value)}{_remark(comments, key, inner)}"


def _by_line(block: Block) -> list[tuple[str, Any]]:
    """In the order of the config; what only a default or its absence says comes last."""
    first = block.mark.line
    lines = {key: mark.line if mark.line > first else 10**9 for key, mark in block.marks.items()}
    return sorted(block.items(), key=lambda item: lines[item[0]])


def _remark(comments: Mapping[tuple[str, str], str], block: str, key: str) -> str:
    comment = comments.get((block, key))
    return f" # {comment}" if comment else ""


def _left_out(draft: StageDraft) -> Iterator[str]:
    """Keys that did something with their lines and the reason, one reason once; the others in one line."""
    by_reason: dict[str, list[Omission]] = {}
    for omission in draft.omissions:
        if omission.matters:
            by_reason.setdefault(omission.why, []).append(omission)
    if by_reason:
        yield "    # Left out:"
    for keys in by_reason.values():
        keys_text = ", ".join(f"{omission.key_and_value} (line {_line(omission)})" for omission in keys)
        yield from _comment(f"- {keys_text}. {keys[0].reason}", "    ", hanging="  ")
    switched_off = [omission.key for omission in draft.omissions if not omission.matters]
    if switched_off:
        yield from _comment(f"Empty or off: {', '.join(dict.fromkeys(switched_off))}.", "    ")


def _line(omission: Omission) -> str:
    return omission.where.rpartition(":")[2]


def _comment(text: str, indent: str, hanging: str = "") -> list[str]:
    first = f"{indent}# "
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _from(path: Any, folder: Path) -> Any:
    return relative_path(Path(path), folder) if isinstance(path, str) and Path(path).is_absolute() else path
