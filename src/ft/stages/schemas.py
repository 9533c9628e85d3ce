"""Writes recipe/schemas.json, what ft ships of the libraries' classes: `python -m ft.stages.schemas`.

To be run when a version in requirements.txt changes, or PPOConfig; a test says so.
"""

from __future__ import annotations

import json
from typing import Any

from ft.recipe import Owner
from ft.recipe.schema import FILE, told, versions
from ft.stages import STAGES


def owners() -> dict[str, Owner]:
    """Those whose classes take seconds to import."""
    every = {owner.path: owner for kind in STAGES.values() for owner in kind.blocks.values()}
    return {path: owner for path, owner in sorted(every.items()) if owner.usual}


def schemas() -> dict[str, Any]:
    return {"versions": versions(), "classes": {path: told(owner.load()) for path, owner in owners().items()}}


def text(held: Any, depth: int = 4) -> str:
    """JSON with a line for each key of a class."""
    if depth == 0 or not isinstance(held, dict):
        return json.dumps(held, ensure_ascii=False)
    indent = " " * (5 - depth)
    lines = [f"{indent}{json.dumps(key)}: {text(value, depth - 1)}" for key, value in held.items()]
    return "{\n" + ",\n".join(lines) + "\n" + indent[1:] + "}"


def main() -> None:
    FILE.write_text(text(schemas()) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
