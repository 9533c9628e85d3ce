"""The results a report is about, from a plan or from folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ft import __version__, artifacts
from ft.encode.prepare import rows_folder
from ft.errors import fail
from ft.files import digest, read_json
from ft.recipe.kind import ARTIFACTS, Artifact, Display
from ft.recipe.reader import reference
from ft.results.store import Plan, Planned
from ft.stages import STAGES

STAMP = '<meta name="ft-results" content="{}">'


@dataclass(frozen=True)
class Result:
    """A stage with its folder, whether anything stands in it or not.

    state   "done", "resume" (begun, not finished) or "absent"
    links   the stages it reads, each with what for: init, data, or the input's name
    rows    folder of the rows prepared for it
    model   folder or Hub id of the recipe's model, where the stage starts from it
    """

    name: str
    kind: str
    folder: Path
    fingerprint: str
    state: str
    links: tuple[tuple[str, str], ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: tuple[Mapping[str, Any], ...] = ()
    require: Mapping[str, float] = field(default_factory=dict)
    key: Mapping[str, Any] = field(default_factory=dict)
    rows: Path | None = None
    model: str | None = None
    why: str = ""

    @cached_property
    def done(self) -> Mapping[str, Any]:
        found = read_json(self.folder / artifacts.DONE)
        return found if isinstance(found, dict) else {}

    @property
    def numbers(self) -> Mapping[str, Any]:
        found = self.done.get("numbers")
        return found if isinstance(found, dict) else {}

    @property
    def leaves(self) -> Artifact:
        """The first of what it leaves; metrics where this version does not know the kind."""
        known = STAGES.get(self.kind)
        return next(artifact for artifact in ARTIFACTS if artifact in known.leaves) if known else "metrics"

    @property
    def display(self) -> Display:
        """How its kind is shown; by its files where this version does not know the kind."""
        return STAGES[self.kind].display if self.kind in STAGES else Display()

    @property
    def about(self) -> str:
        return STAGES[self.kind].about if self.kind in STAGES else "a kind this version does not know"

    @property
    def finished(self) -> str:
        """'2026-11-22 12:40 UTC', or nothing."""
        file = self.folder / artifacts.DONE
        if not file.is_file():
            return ""
        return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")

    def unmet(self) -> list[str]:
        """What `require:` asks for and the stage did not reach."""
        found = []
        for name, least in self.require.items():
            value = self.numbers.get(name)
            if self.done and not (isinstance(value, (int, float)) and value >= least):
                found.append(f"The recipe requires {name} of at least {least:g}; it is {value}. The chain stops here.")
        return found


@dataclass(frozen=True)
class Run:
    """A chain of results: a recipe's, or what stands in a folder. `repeat` is the command that makes it again."""

    name: str
    results: tuple[Result, ...]
    repeat: str = ""
    seed: int | None = None
    skipped: tuple[str, ...] = ()
    runs: Path | None = None

    def get(self, name: str) -> Result | None:
        return next((result for result in self.results if result.name == name), None)

    @property
    def stamp(self) -> str:
        """Names the state of all results: equal stamps, equal pages."""
        return digest(
            [__version__, self.repeat, *([r.name, r.fingerprint, r.state, r.done, _sizes(r)] for r in self.results)], 16
        )


def _sizes(result: Result) -> list[int]:
    """How far a stage that is not finished has come; a finished one is told by its done.json."""
    if result.state != "resume":
        return []
    return [f.stat().st_size for f in sorted(result.folder.glob("*.json*")) if not f.name.startswith(".")]


def of_plan(there: Plan, sets: Sequence[str] = ()) -> Run:
    words = ["ft run", str(there.recipe.file), *(f"--set {one}" for one in sets)]
    if there.runs != Path("runs"):
        words.append(f"--runs {there.runs}")
    results = tuple(_planned(p, there) for p in there.stages)
    name, seed = there.recipe.name, there.recipe.seed
    return Run(name, results, " ".join(words), seed, there.recipe.skipped, there.runs)


def _planned(planned: Planned, there: Plan) -> Result:
    stage, model = planned.stage, there.recipe.model
    links = [(stage.init, "init")] if stage.init else []
    links += [(parent, name) for name, parent in stage.inputs.items()]
    links += [(parent, "data") for s in (*stage.data, *stage.eval_data) if (parent := reference(s["path"]))]
    return Result(
        name=planned.name,
        kind=stage.kind_name,
        folder=planned.folder,
        fingerprint=planned.fingerprint,
        state=planned.state,
        links=tuple(dict.fromkeys(links)),
        blocks=stage.blocks,
        data=stage.data,
        require=stage.require,
        key=planned.key,
        rows=rows_folder(there.runs, planned.rows_key) if planned.rows_key else None,
        model=model.path if model and not stage.init and stage.kind.init else None,
        why=planned.why,
    )


def of_folder(path: Path) -> Run:
    """The results of a run's folder, the newest of each stage; or of one stage's folder, with those it is made from."""
    if (path / artifacts.JOB).is_file():
        found = _with_parents(path.resolve())
        return Run(
            path.resolve().name,
            tuple(_from_job(folder) for folder in found),
            runs=artifacts.runs_folder(path.resolve()),
        )
    newest: dict[str, Path] = {}
    for file in sorted(path.glob(f"*/{artifacts.JOB}"), key=lambda file: (file.stat().st_mtime, file)):
        if ".old-" not in file.parent.name:
            newest[_job(file.parent).get("name", file.parent.name)] = file.parent.resolve()
    if not newest:
        raise fail(str(path), "no recipe and no folder of results", "Name a .yaml file, runs/RECIPE, or a stage in it.")
    ordered: list[Path] = []
    for folder in newest.values():
        ordered += [one for one in _with_parents(folder) if one not in ordered]
    return Run(path.resolve().name, tuple(_from_job(folder) for folder in ordered), runs=path.resolve().parent)


def _job(folder: Path) -> dict[str, Any]:
    """What the stage was given; a broken file counts as none."""
    found = read_json(folder / artifacts.JOB)
    return found if isinstance(found, dict) else {}


def _parents(folder: Path) -> list[tuple[Path, str]]:
    """The folders a stage read, each with what for, as its job.json has them."""
    job = _job(folder)
    found = [(job["init"], "init")] if job.get("init") else []
    found += [(place, name) for name, place in (job.get("inputs") or {}).items()]
    paths = [Path(source.get("path", "")) for source in job.get("data") or ()]
    found += [(str(path.parent), "data") for path in paths if path.name == artifacts.ROWS]
    places = [(_beside(folder, Path(place)), role) for place, role in found]
    return [(place, role) for place, role in places if (place / artifacts.JOB).is_file()]


def _beside(folder: Path, place: Path) -> Path:
    """A folder as the job names it, or, when all of them were moved together, the one of its name beside this one."""
    moved = folder.parent / place.name
    return place if place.is_dir() or not moved.is_dir() else moved


def _with_parents(folder: Path, seen: tuple[Path, ...] = ()) -> list[Path]:
    """The folders a result is made from, in the order they were made, itself last."""
    found: list[Path] = []
    for parent, _ in _parents(folder):
        if parent not in seen:
            found += [one for one in _with_parents(parent, (*seen, folder)) if one not in found]
    return [*found, folder]


def _from_job(folder: Path) -> Result:
    job = _job(folder)
    names = {str(place): _job(place).get("name", place.name) for place, _ in _parents(folder)}
    kind = str(job.get("kind"))
    starts = kind in STAGES and STAGES[kind].init and not job.get("init")
    return Result(
        name=str(job.get("name", folder.name)),
        kind=kind,
        folder=folder,
        fingerprint=str(job.get("fingerprint", "")),
        state="done" if (folder / artifacts.DONE).is_file() else "resume",
        links=tuple((names[str(place)], role) for place, role in _parents(folder)),
        blocks=job.get("blocks") or {},
        data=tuple(job.get("data") or ()),
        require=job.get("require") or {},
        key=read_json(folder / artifacts.KEY) or {},
        rows=Path(job["rows"]) if job.get("rows") else None,
        model=(job.get("model") or {}).get("path") if starts else None,
    )


def is_current(path: Path, run: Run) -> bool:
    """Whether the page says what the results say now."""
    try:
        with path.open(encoding="utf-8") as file:
            return STAMP.format(run.stamp) in file.read(2000)
    except (OSError, ValueError):
        return False
