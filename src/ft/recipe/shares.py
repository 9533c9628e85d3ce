"""Whether the shares of one `data:` list fit together: every source in a group, every group one share, 1 in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ft.errors import Problems
from ft.recipe.yaml import Block

WHOLE = 1e-3
"""How far from 1 the shares may add up: three times 0.3333 is meant as a third each."""


def shares_fit(sources: Sequence[Any], where: str, problems: Problems) -> None:
    """Add what is wrong between the sources; what is wrong with one alone is found where it is checked."""
    written = [source for source in sources if isinstance(source, Block)]
    shares: dict[Any, float] = {}
    for source in written:
        group, share = source.get("group"), source.get("share")
        if not isinstance(share, (int, float)) or group is None:
            continue
        if shares.setdefault(group, share) != share:
            what = f"group '{group}' has share {share} here and {shares[group]} above"
            problems.add(source.where("share"), what, "Write its share once.")
    if not any("share" in source for source in written):
        return
    named = ", ".join(f"{group} {share:g}" for group, share in shares.items())
    for place, source in enumerate(sources):
        group = source.get("group") if isinstance(source, Block) else None
        at = source.where("group") if isinstance(source, Block) else where
        if group is None and not (isinstance(source, Block) and "share" in source):
            what = f"source {place + 1} belongs to no group, but others have shares ({named})"
            problems.add(at, what, "Write `group: NAME`, and the group's share at one of its sources.")
        elif group is not None and group not in shares:
            problems.add(at, f"group '{group}' has no share, but others have ({named})", "Write `share: …` beside it.")
    if shares and abs(sum(shares.values()) - 1) > WHOLE:
        what = f"the shares add up to {sum(shares.values()):g} ({named})"
        problems.add(where, what, "They are parts of the whole mixture: make it 1.")
