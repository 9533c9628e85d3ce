"""Sizes and hashes of a folder's files, written last: they tell a whole folder from one that a lost machine, a full
disk or a copy has damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.files import read_json, write_json


def write_manifest(folder: Path) -> None:
    """List the files of the folder, at any depth."""
    files = {str(file.relative_to(folder)): _describe(file) for file in sorted(folder.rglob("*")) if _counts(file)}
    write_json(folder / artifacts.MANIFEST, {"files": files}, durable=True)


def has_manifest(folder: Path) -> bool:
    """Folders of before there were manifests have none."""
    return (folder / artifacts.MANIFEST).exists()


def find_damage(folder: Path) -> str:
    """What differs from the manifest, in words; "" where nothing does. Files that it does not list may be there."""
    manifest = read_json(folder / artifacts.MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        return f"{artifacts.MANIFEST} cannot be read"
    return next((damage for name, expected in files.items() if (damage := _differs(folder / name, name, expected))), "")


def _differs(file: Path, name: str, expected: object) -> str:
    try:
        found = _describe(file)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return "" if found == expected else f"{name} is not what was written"


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _counts(file: Path) -> bool:
    return file.is_file() and file.name != artifacts.MANIFEST
