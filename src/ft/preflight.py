"""What would stop a run an hour in, found before any work: trackers without a key, precision the machine lacks, an
instruction bank that is wrong."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft.data.instructions import Bank
from ft.errors import Problems, UserError
from ft.models.device import device_arguments
from ft.runs import Planned

TRACKERS = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}


def preflight(todo: Sequence[Planned]) -> None:
    """Raises UserError with everything that would stop one of these stages later."""
    problems = Problems()
    for planned in todo:
        for bank in [block["bank"] for block in planned.stage.blocks.values() if "bank" in block]:
            _bank(Path(bank), problems)
        train = planned.stage.blocks.get("train")
        if train is None:
            continue
        for tracker in _asked(train.get("report_to")):
            _tracker(tracker, planned.stage.where, problems)
        try:
            device_arguments(train, planned.stage.where)
        except UserError as error:
            problems += error.problems
    problems.raise_any()


def _bank(path: Path, problems: Problems) -> None:
    try:
        Bank.read(path)
    except UserError as error:
        problems += error.problems


def _asked(report_to: Any) -> list[str]:
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    return [name for name in names if name != "none"]


def _tracker(name: str, where: str, problems: Problems) -> None:
    if name not in TRACKERS:
        problems.add(where, f"train.report_to: '{name}'", f"There are: none, {', '.join(TRACKERS)}.")
    elif importlib.util.find_spec(TRACKERS[name]) is None:
        problems.add(where, f"train.report_to: {name} is not installed", f"pip install 'ft[{name}]'")
    elif name == "wandb" and not _wandb_can_log():
        fix = "Set WANDB_API_KEY, or WANDB_MODE=offline to keep the run on this machine."
        problems.add(where, "train.report_to: wandb has no key", fix)


def _wandb_can_log() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.exists() and "wandb" in netrc.read_text()
