"""What stands in a model's folder: whole weights, or an adapter and the weights it stands on.

An adapter folder's `lineage.json` records the base and its quantisation, so that whoever loads it gets the model that
was trained and no other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.families import FAMILIES
from ft.files import read_json, read_mapping, write_json
from ft.recipe import ModelSource


def is_adapter(folder: Path) -> bool:
    return (folder / artifacts.ADAPTER_CONFIG).exists()


def is_reward(folder: Path) -> bool:
    """Whether the folder holds a reward model, whole or as an adapter, and no model that answers."""
    adapter, config = (read_json(folder / name) or {} for name in (artifacts.ADAPTER_CONFIG, artifacts.CONFIG))
    return any(family.is_scorer(config.get("architectures") or [], adapter.get("task_type")) for family in FAMILIES)


def base_of(model: ModelSource | None, init: Path | None) -> tuple[ModelSource, Path | None]:
    """The whole weights at the bottom, and the adapter that stands on them."""
    if init is None:
        if model is None:
            raise fail("model", "there is no model to start from", "Write `model: path-or-hub-id`.")
        return model, None
    if not is_adapter(init):
        how = (model.dtype, model.attn_implementation) if model else (None, None)
        return ModelSource(str(init), None, *how), None
    lineage = read_mapping(init / artifacts.LINEAGE)
    if lineage:
        base = ModelSource(**lineage["base"])
        return replace(base, path=_open_path(base.path, init)), init
    config = read_mapping(init / artifacts.ADAPTER_CONFIG)
    path = config.get("base_model_name_or_path")
    if not isinstance(path, str):
        raise fail(str(init / artifacts.ADAPTER_CONFIG), "it does not name the base (base_model_name_or_path)")
    return ModelSource(path, config.get("revision")), init


def _open_path(written: str, adapter: Path) -> str:
    """The base that a lineage names. One in the same runs folder is the result there, wherever that folder stands now;
    lineages of before name it by the place where it was made, which may hold another by now."""
    if written.startswith(".."):
        path = (adapter / written).resolve()
        if not path.is_dir():
            fix = "Move or copy the whole runs folder, or take the adapter out of it by `ft export`."
            raise fail(str(adapter), f"the model it stands on is not at {path}", fix)
        return str(path)
    result = Path(*Path(written).parts[-2:])
    here = (runs / result for runs in adapter.resolve().parents if Path(written).is_absolute())
    return next((str(folder) for folder in here if (folder / artifacts.DONE).exists()), written)


def parts(folder: Path) -> tuple[ModelSource, Path | None, Mapping[str, Any] | None]:
    """A finished model folder's whole weights, the adapter on them (None: the folder holds the weights), and how the
    weights were quantised under it."""
    base, adapter = base_of(None, folder)
    lineage = (read_json(folder / artifacts.LINEAGE) or {}) if adapter else {}
    return base, adapter, lineage.get("quantization")


def save_lineage(
    folder: Path, model: ModelSource | None, init: Path | None, quantization: Mapping[str, Any] | None
) -> None:
    """Record the base under an adapter, for whoever loads the folder next."""
    base, _ = base_of(model, init)
    write_lineage(folder, base, quantization)


def write_lineage(folder: Path, base: ModelSource, quantization: Mapping[str, Any] | None) -> None:
    """A base in the same runs folder is named from here, so that the folder may be moved; else by its place."""
    place = base.folder.resolve() if base.folder else None
    if place and (place / artifacts.DONE).exists() and artifacts.runs_folder(place) in folder.resolve().parents:
        base = replace(base, path=os.path.relpath(place, folder.resolve()))
    lineage = {"base": asdict(base), "quantization": dict(quantization) if quantization else None}
    write_json(folder / artifacts.LINEAGE, lineage)
