"""Where answers, scores and reference log-probabilities are computed. It decides the time and not the result."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal


@dataclass(frozen=True)
class EngineOptions:
    """A recipe's `engine:` block.

    kind               local: the stage's own process. ray: actors of Ray, on this machine or on a cluster
    address            ray: the cluster's, as 10.0.0.1:6379, or auto; null: one is started here, and ends with the stage
    actors             ray: how many, each with a copy of the model; null: as many as there is room for
    cpus               ray: cores of each actor
    gpus               ray: GPUs of each actor; null: 1 where there are any
    overlap_reference  ray: while a stage trains on a batch, the reference's log-probabilities of the next are computed
    """

    kind: Literal["local", "ray"] = "local"
    address: str | None = None
    actors: int | None = None
    cpus: int = 1
    gpus: float | None = None
    overlap_reference: bool = False

    def __post_init__(self) -> None:
        if self.kind == "local" and any(getattr(self, f.name) != f.default for f in fields(self)):
            raise ValueError("address, actors, cpus, gpus and overlap_reference are for kind: ray")
        if self.actors is not None and self.actors < 1:
            raise ValueError(f"actors is {self.actors}; it must be at least 1")
        if self.cpus < 1:
            raise ValueError(f"cpus is {self.cpus}; it must be at least 1")
        if self.gpus is not None and self.gpus < 0:
            raise ValueError(f"gpus is {self.gpus}; it must not be below 0")
        if self.address is not None and not self.address.strip():
            raise ValueError("address is empty. Write it as 10.0.0.1:6379, or leave it out")

    def with_engine(self, words: str) -> EngineOptions:
        """These options where the command line says `local`, `ray` or `ray=ADDRESS`. Raises ValueError otherwise."""
        kind, equals, address = words.partition("=")
        if kind == "local" and not equals:
            return EngineOptions()
        if kind != "ray" or (equals and not address):
            raise ValueError(f"no engine '{words}'. Write local, ray or ray=ADDRESS")
        return replace(self, kind="ray", address=address or self.address)

    @property
    def place(self) -> str:
        """Where Ray's actors are, in words."""
        return f"the cluster at {self.address}" if self.address else "this machine"


LOCAL = EngineOptions()
