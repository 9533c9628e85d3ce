"""Values as a recipe's text has them: what `ft new` and `ft import` write is read back as the very same."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

OVERWRITE = "Give another name, or --force to overwrite it."  # how to write a recipe where one is
PLAIN = re.compile(r"[A-Za-z._/$][\w./$-]*")


def yaml_word(text: str) -> str:
    """A YAML scalar that is read as this very text."""
    plain = PLAIN.fullmatch(text) and text.lower() not in ("true", "false", "null")
    return text if plain else json.dumps(text, ensure_ascii=False)


def yaml_value(value: Any) -> str:
    """One line of YAML that is read back as this very value."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_word(str(key))}: {yaml_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    return yaml_word(value) if isinstance(value, str) else json.dumps(value)


def relative_path(file: Path, folder: Path) -> str:
    """From `folder` to the file, with slashes on every system."""
    return Path(os.path.relpath(file.expanduser().resolve(), folder)).as_posix()
