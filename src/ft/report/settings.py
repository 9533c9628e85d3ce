"""The settings of a stage that differ from what its classes do by themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ft import artifacts
from ft.files import read_json
from ft.recipe.check import defaults
from ft.report.parts import Table
from ft.report.run import ReportedStage
from ft.stages import STAGES

UNKNOWN = object()


def settings_table(stage: ReportedStage) -> Table | None:
    """A line each key that is not at its class's default; where the default is not known, every written key."""
    rows = tuple(
        (name, format_setting(value), format_setting(usual)) for name, value, usual in _changed_settings(stage)
    )
    if not rows:
        return None
    return Table(("setting", "here", "default"), rows, "Settings that differ from the defaults", numeric=False)


def _changed_settings(stage: ReportedStage) -> Iterator[tuple[str, Any, Any]]:
    kind = STAGES.get(stage.kind)
    for block, values in stage.blocks.items():
        owner = kind.blocks.get(block) if kind else None
        usual = defaults(owner.chosen(values)) if owner else {}
        for key, value in values.items():
            if key not in usual or usual[key] != value:
                yield f"{block}.{key}", value, usual.get(key, UNKNOWN)


def format_setting(value: object) -> str:
    """A value as a recipe would have it; an unknown one is a dot."""
    if value is UNKNOWN:
        return "·"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sources_table(stage: ReportedStage) -> Table | None:
    """Where rows come from, and how they are read; the hash of each source that is a file."""
    keys = stage.key.get("data") or [{}] * len(stage.data)
    rows = []
    for source, key in zip(stage.data, keys, strict=False):
        files = [_hash(file) for file in key.get("files", ())] if isinstance(key, Mapping) else []
        options = ", ".join(
            f"{k} {format_setting(v)}" for k, v in source.items() if k not in ("path", "format") and v is not None
        )
        rows.append((short_path(source["path"]), str(source.get("format", "·")), options, ", ".join(files) or "·"))
    head = ("source", "format", "options", "hash")
    return Table(head, tuple(rows), "Data", numeric=False) if rows else None


def _hash(file: object) -> str:
    text = file[-1] if isinstance(file, list) and file else file
    return str(text)[:12]


def short_path(path: str) -> str:
    """The last two parts of a path: a report tells no one's folders."""
    return "/".join(path.rsplit("/", 2)[-2:]) if path.startswith("/") else path


def stats_of(stage: ReportedStage) -> dict[str, Any]:
    """What became of the rows prepared for the stage; empty where none were."""
    stats = read_json(stage.rows / artifacts.STATS) if stage.rows else None
    return stats if isinstance(stats, dict) and isinstance(stats.get("train"), dict) else {}
