"""What stands in a model's folder: whole weights, or an adapter and the weights it stands on.

An adapter folder's `lineage.json` records the base and its quantisation, so that whoever loads it gets the model that
was trained and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.families import FAMILIES
from ft.files import read_json, write_json
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
    lineage = read_json(init / artifacts.LINEAGE)
    if lineage:
        return ModelSource(**lineage["base"]), init
    config = read_json(init / artifacts.ADAPTER_CONFIG)
    return ModelSource(config["base_model_name_or_path"], config.get("revision")), init


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
    lineage = {"base": asdict(base), "quantization": dict(quantization) if quantization else None}
    write_json(folder / artifacts.LINEAGE, lineage)
