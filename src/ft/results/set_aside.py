"""Sets results aside for `--force`, and brings them back. A folder is renamed, never deleted or overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ft.errors import Problems
from ft.files import free_name
from ft.results.ledger import entries, find_result, refuse_in_use
from ft.results.locks import hold_result

ENDING = ".old-"


def set_aside(runs: Path, folders: Sequence[Path]) -> list[Path]:
    """Rename these results, all of them or none; their new places. Raises UserError where a running stage makes or
    reads one."""
    refuse_in_use(runs, folders)
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(hold_result(runs, folder))
        return [folder.rename(free_name(folder, ENDING)) for folder in folders]


def restore(runs: Path, words: Sequence[str]) -> list[tuple[Path, Path | None]]:
    """Bring results back that were set aside, all of them or none: each one's place, and where the result that has been
    made there since is now. Raises UserError where a word names none, or a running stage makes or reads one."""
    existing, problems = entries(runs), Problems()
    results = list(dict.fromkeys(find_result(existing, word, runs) for word in words))
    former: dict[Path, Path] = {}
    for result in results:
        place = result.folder.with_name(result.folder.name.partition(ENDING)[0])
        if not result.set_aside:
            problems.add(str(result.folder), "this result was not set aside", "`ft runs` shows those that were.")
        elif place in former:
            problems.add(str(result.folder), f"{former[place].name} was the same result", "Name one of them.")
        former[place] = result.folder
    problems.raise_any()
    refuse_in_use(runs, list(former))
    with ExitStack() as locks:
        for place in former:
            locks.enter_context(hold_result(runs, place))
        return [(place, _exchange(folder, place)) for place, folder in former.items()]


def _exchange(folder: Path, place: Path) -> Path | None:
    """Give a result its place again; where the one that stood there is now."""
    newer = place.rename(free_name(place, ENDING)) if place.exists() else None
    folder.rename(place)
    return newer


def restore_command(runs: Path, folders: Sequence[Path]) -> str:
    """What brings these back."""
    return " ".join(["ft runs restore", *map(str, folders), *([] if runs == Path("runs") else ["--runs", str(runs)])])
