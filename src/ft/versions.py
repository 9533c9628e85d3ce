"""Versions of ft and of the libraries that a result was made with."""

from __future__ import annotations

from importlib.metadata import version

from ft import __version__

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")


def versions() -> dict[str, str]:
    """Name → version, ft first. ft names its own, because a checkout that was never installed has no metadata."""
    return {"ft": __version__} | {name: version(name) for name in LIBRARIES}
