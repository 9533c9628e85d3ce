"""The settings of a stage that differ from what its classes do by themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft import artifacts
from ft.files import read_json
from ft.recipe.check import defaults
from ft.report.parts import HintedText, Table
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


NOT_OPTIONS = ("path", "format", "sha256")


def sources_table(stage: ReportedStage) -> Table | None:
    """Where rows come from, and how they are read; the hash of each source that is a file as its hint."""
    rows = []
    for name, source in zip(sources(stage), stage.data, strict=False):
        options = (f"{k} {format_setting(v)}" for k, v in source.items() if k not in NOT_OPTIONS and v is not None)
        rows.append((name, str(source.get("format", "·")), ", ".join(options)))
    return Table(("source", "format", "options"), tuple(rows), "Data", numeric=False) if rows else None


def sources(stage: ReportedStage) -> list[HintedText]:
    """The name of each source of rows, with the hashes of its files as a hint."""
    keys = stage.key.get("data") or [{}] * len(stage.data)
    names = []
    for source, key in zip(stage.data, keys, strict=False):
        hashes = [_hash(file) for file in key.get("files", ())] if isinstance(key, Mapping) else []
        names.append(HintedText(short_path(source["path"]), f"SHA-256 {', '.join(hashes)}" if hashes else ""))
    return names


def settings_that_differ(stages: Sequence[tuple[str, ReportedStage]]) -> Table | None:
    """Everything that decides the results and is not the same in all, a column a run by its letter: data by files and
    rows, other results by their stages, and hashes as hints alone."""
    columns = [_deciding(letter, stage) for letter, stage in stages]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [column.get(name, HintedText("·", "")) for column in columns]
        if len({(value, value.hint) for value in values}) > 1:
            rows.append((name, *_told_apart(values)))
    head = ("setting", *(letter for letter, _ in stages))
    return Table(head, tuple(rows), "Settings that differ", numeric=False) if rows else None


def _deciding(letter: str, stage: ReportedStage) -> dict[str, HintedText]:
    names = sources(stage)
    decisive = {"data": HintedText(", ".join(names), "; ".join(name.hint for name in names))} if names else {}
    counts = {side: of.get("rows", 0) for side, of in stats_of(stage).items() if side in ("train", "eval")}
    if counts:
        decisive["rows"] = HintedText(", ".join(f"{count:,} {ROWS[side]}" for side, count in counts.items()), "")
    parents = {role: name for name, role in stage.links}
    for name, value in flat(stage.key):
        if re.fullmatch(r"data(\[\d+\])?\.files|data\[\d+\]\.files\[\d+\]", name):
            continue
        text = format_setting(value)
        if re.fullmatch(r"[0-9a-f]{12,64}", text):
            source = short_path(stage.model or "") if name.startswith("model") else ""
            decisive[name] = HintedText(parents.get(name.removeprefix("inputs."), source), text)
        else:
            decisive[name] = HintedText(text[:80], "")
    return decisive


ROWS = {"train": "trained", "eval": "held out"}


def _told_apart(values: Sequence[HintedText]) -> list[HintedText]:
    """Those whose text is another's, though they are not the same, say so."""
    cells: list[HintedText] = []
    for value in values:
        same_text = any(value == other and value.hint != other.hint for other in cells)
        cells.append(HintedText(f"{value} (another version)".lstrip(), value.hint) if same_text else value)
    return cells


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('train.beta', 0.1) for every leaf of nested mappings and lists; stages above are named by their fingerprints."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], (Mapping, list)):
        for place, inner in enumerate(value, 1):
            yield from flat(inner, f"{prefix}[{place}]")
    else:
        yield prefix, value


def _hash(file: object) -> str:
    return str(file[-1] if isinstance(file, list) and file else file)


def short_path(path: str) -> str:
    """The last two parts of a path: a report tells no one's folders."""
    return "/".join(path.rsplit("/", 2)[-2:]) if path.startswith("/") else path


def stats_of(stage: ReportedStage) -> dict[str, Any]:
    """What became of the rows prepared for the stage; empty where none were."""
    stats = read_json(stage.rows / artifacts.STATS) if stage.rows else None
    return stats if isinstance(stats, dict) and isinstance(stats.get("train"), dict) else {}
