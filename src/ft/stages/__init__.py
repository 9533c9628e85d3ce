"""Stages: one module a kind, and STAGES, the table of them."""

from ft.stages.kinds import STAGES

__all__ = ["STAGES"]
