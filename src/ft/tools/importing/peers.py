"""Which trainer a config is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ft.errors import UserError
from ft.tools.importing import axolotl, llama_factory, ms_swift, torchtune, trl
from ft.tools.importing.config import TrainingConfig, read_configs
from ft.tools.importing.draft import StageDraft


@dataclass(frozen=True)
class Peer:
    """A trainer whose configs are read: a module of this package."""

    name: str
    matches: Callable[[TrainingConfig], bool]
    read: Callable[[StageDraft], None]
    differences: Mapping[str, str]


def _peer(module: ModuleType) -> Peer:
    return Peer(module.NAME, module.matches, module.read, module.DIFFERENCES)


PEERS = tuple(_peer(module) for module in (torchtune, axolotl, llama_factory, ms_swift, trl))
"""In the order they are tried: what only one of them writes comes first."""


def peer_of(config: TrainingConfig) -> Peer | None:
    """The trainer whose config this is; None for a recipe of ft, and for what nothing is known of."""
    if "stages" in config.values:
        return None
    return next((peer for peer in PEERS if peer.matches(config)), None)


def name_of_peer(path: Path) -> str:
    """The trainer whose config the file is; '' for a recipe, and for what is none or cannot be read."""
    try:
        peers = [peer_of(config) for config in read_configs(path)]
    except UserError:
        return ""
    return next((peer.name for peer in peers if peer), "")
