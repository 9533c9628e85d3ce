"""What of a model each GPU holds when there are several: read from an accelerate config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from ft.run.accelerate_config import Launch

Kind = Literal["none", "ddp", "fsdp", "zero2", "zero3"]


@dataclass(frozen=True)
class Sharding:
    """`processes` GPUs. ddp: each holds everything. zero2: gradients and optimizer states are cut in slices, one a GPU.
    zero3, fsdp: weights as well, and a layer is put together when its turn comes. `offload` moves to main memory: the
    optimizer's states, or everything."""

    kind: Kind = "none"
    processes: int = 1
    offload: Literal["none", "optimizer", "all"] = "none"

    def slice(self, size: int, of: Literal["weights", "gradients", "states"]) -> int:
        """The part of `size` bytes that one GPU holds."""
        if self.offload == "all" or (self.offload == "optimizer" and of == "states"):
            return 0
        everything = ("weights", "gradients", "states")
        cut = {"fsdp": everything, "zero3": everything, "zero2": everything[1:]}
        return -(-size // self.processes) if of in cut.get(self.kind, ()) else size

    @property
    def gathers(self) -> bool:
        return self.kind in ("fsdp", "zero3")

    def __str__(self) -> str:
        names = {"none": "one GPU", "ddp": "DDP", "fsdp": "FSDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
        return names[self.kind] if self.kind == "none" else f"{names[self.kind]} over {self.processes} GPUs"


def sharding(way: Launch) -> Sharding:
    """How the processes of `way` share a model: their GPUs hold what it leaves each."""
    kind = cast(Kind, "none" if way.processes == 1 and way.way in ("single", "ddp") else way.way)
    everything = way.on("fsdp_offload_params") or _elsewhere(way, "offload_param_device")
    states = _elsewhere(way, "offload_optimizer_device")
    return Sharding(kind, way.processes, "all" if everything else "optimizer" if states else "none")


def _elsewhere(way: Launch, option: str) -> bool:
    return way.options.get(option, "none").lower() not in ("none", "")
