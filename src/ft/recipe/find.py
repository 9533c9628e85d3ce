"""Which file a recipe's name means: a path, `recipes/NAME.yaml` of this folder, or a recipe that ft brings along.

ft brings along recipes/ and data/ of the project under `ft/bundle`: links in a checkout, copies in a wheel. A recipe's
paths are relative to its file and results are named by bytes, so both give the same results.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Set
from pathlib import Path

from ft.hub import exists, is_folder

SUFFIXES = (".yaml", ".yml")
BUNDLED = (Path(__file__).parent.parent / "bundle" / "recipes").resolve()
LAUNCH_CONFIGS = "accelerate"  # the folder of recipes/ that holds no recipes


def recipe_file(name: str) -> Path:
    """The file of a recipe (or of a config in recipes/accelerate) that a user names; the name itself where none is
    there, and reading it says so. `recipes/tiny/chat.yaml` is `tiny/chat` where the folder has no recipes/."""
    path = Path(name)
    short = _short_name(path)
    places = (path, Path("recipes") / f"{short}.yaml", BUNDLED / f"{short}.yaml")
    return next((file for file in places if exists(file)), path)


def is_recipe(name: str) -> bool:
    """Whether a name means a recipe, there or not, rather than a folder, rows or an id of the Hub."""
    return recipe_file(name).suffix in SUFFIXES


def recipe_argument(file: Path) -> str:
    """What a user types for a recipe's file: the name of one that ft brings along, else the path."""
    return _short_name(file.relative_to(BUNDLED)) if file.is_relative_to(BUNDLED) else str(file)


def bundled_recipes() -> dict[str, Path]:
    """Name → file of each recipe that ft brings along."""
    files = sorted(file for file in BUNDLED.glob("*/*.yaml") if file.parent.name != LAUNCH_CONFIGS)
    return {recipe_argument(file): file for file in files}


def recipes_of_kind(kinds: Set[str], like: str) -> list[str]:
    """Recipes that come with ft and have a stage of one of these kinds, one a folder, that of `like` first."""
    found = [
        name
        for name, file in bundled_recipes().items()
        if not kinds.isdisjoint(re.findall(r"^\s*- kind: ([\w-]+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    ]
    by_folder: dict[str, str] = {}
    for name in found:
        by_folder.setdefault(_folder(name), name)
    return sorted(by_folder.values(), key=lambda name: (_folder(name) != _folder(like), _folder(name) != "tiny"))


def _folder(name: str) -> str:
    """tiny of tiny/chat, and of recipes/tiny/chat.yaml."""
    return Path(_short_name(Path(name)) or name).parts[0]


def launch_configs() -> list[str]:
    """Names of the accelerate configs that ft brings along, for `--launch`."""
    return [recipe_argument(file) for file in sorted((BUNDLED / LAUNCH_CONFIGS).glob("*.yaml"))]


def near_recipes(name: str, folder: Path) -> str:
    """What may have been meant by `name`, a path from `folder` that leads to no recipe; '' where nothing is near."""
    parent = (folder / name).parent
    beside = [file.name for file in sorted(parent.glob("*.y*ml"))] if is_folder(parent) else []
    short = _short_name(Path(name))
    names = [*bundled_recipes(), *(file.stem for file in sorted(Path("recipes").glob("*.yaml")))]
    near = difflib.get_close_matches(Path(name).name, beside, n=1)
    near = near or [one for one in names if one.rpartition("/")[2] == short] or difflib.get_close_matches(short, names)
    return f"Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""


def recipe_summary(file: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def _short_name(path: Path) -> str:
    """recipes/tiny/chat.yaml → tiny/chat; '' for a path that cannot lie in recipes/."""
    if path.is_absolute() or ".." in path.parts:
        return ""
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    return Path(*parts).as_posix().removesuffix(".yaml").removesuffix(".yml")
