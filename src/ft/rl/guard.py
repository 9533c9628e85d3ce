"""The keys of a `guard:` block; a file of their own, so that planning reads them without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GuardOptions:
    """When a run stops or warns, and how much is shown: a recipe's `guard:` block. Shares are from 0 to 1.

    cut         share of the first answers that the length limit may cut; above it the run stops
    empty       share of the first answers that may be empty; above it the run stops
    kl          nats an answer that the policy may be from the reference; beyond it training ends, and the best
                checkpoint is kept. null: no bound
    longer      factor by which answers may grow, or shrink, against the first batch; beyond it the run warns
    repetition  share of an answer's word triples that may have stood in it before; beyond it the run warns
    shown       answers of a logged step shown
    kept        answers of each batch written to rollouts.jsonl; 0: all
    """

    cut: float = 0.5
    empty: float = 0.5
    kl: float | None = 30.0
    longer: float = 2.0
    repetition: float = 0.3
    shown: int = 1
    kept: int = 16

    def __post_init__(self) -> None:
        for name in ("cut", "empty", "repetition"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.kl is not None and self.kl <= 0:
            raise ValueError(f"kl is {self.kl}; it is a bound in nats, above 0, or null")
        if self.longer <= 1:
            raise ValueError(f"longer is {self.longer}; it is a factor above 1")
        for name in ("shown", "kept"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a number of answers, 0 or more")
