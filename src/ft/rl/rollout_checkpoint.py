"""A batch of answers between two of its uses, in the checkpoints of TRL's trainers that sample.

TRL 1.16 keeps such a batch in memory alone: a trainer that goes on draws another one, and counts its uses from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ft.files import read_json, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutCheckpoint:
    """Where a process's batch stands, as files of a checkpoint: `answers.json` and a tensor file for each process.

    A batch is a list of parts, one for each micro-step of a pass: name → tensor of some answers.

    steps_per_batch  micro-steps that learn from one batch
    """

    steps_per_batch: int
    process: int
    processes: int

    def write(self, folder: Path, step: int, parts: Sequence[Mapping[str, Tensor | None]] | None) -> None:
        """Micro-steps made, and the batch, unless the next one draws another."""
        if parts is not None and step % self.steps_per_batch:
            entries = [(f"{place} {name}", value) for place, part in enumerate(parts) for name, value in part.items()]
            whole = torch.contiguous_format  # and nothing shares memory, as safetensors wants it
            tensors = {name: value.cpu().clone(memory_format=whole) for name, value in entries if value is not None}
            save_file(tensors, str(self._file(folder)))
        if self.process == 0:
            write_json(folder / "answers.json", {"step": step, "processes": self.processes})

    def read(self, folder: Path, device: torch.device) -> tuple[int, list[dict[str, Tensor]] | None]:
        """Micro-steps made, and the batch that is being learnt from."""
        state = read_json(folder / "answers.json")
        if not state or state["processes"] != self.processes:
            log.warning("%s holds no answers of %d processes: new ones are drawn", folder, self.processes)
            return 0, None
        if state["step"] % self.steps_per_batch == 0:
            return state["step"], None
        parts: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(str(self._file(folder)), device=str(device)).items():
            place, _, name = key.partition(" ")
            parts.setdefault(int(place), {})[name] = value
        return state["step"], [parts[place] for place in sorted(parts)]

    def _file(self, folder: Path) -> Path:
        return folder / f"answers-{self.process}.safetensors"
