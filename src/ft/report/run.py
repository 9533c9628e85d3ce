"""The results a report is about, from a plan or from folders alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ft import __version__, artifacts
from ft.encode.prepare import rows_folder
from ft.errors import fail
from ft.files import digest
from ft.recipe.kind import ARTIFACTS, Artifact, Display
from ft.recipe.rounds import Rounds
from ft.recipe.types import reference
from ft.result import Result, State
from ft.results.store import Plan, PlannedStage
from ft.results.variants import OTHER_SETTINGS, find_variant
from ft.stages import STAGES

STAMP = '<meta name="ft-results" content="{}">'


@dataclass(frozen=True)
class ReportedStage:
    """A stage of a run with its result, whether anything stands there or not.

    links   the stages it reads, each with what for: init, data, or the input's name
    rows    folder of the rows prepared for it
    model   folder or Hub id of the recipe's model, where the stage starts from it
    other_settings  how the result's settings differ from the recipe's; none where it was made with these
    """

    name: str
    kind: str
    result: Result
    fingerprint: str
    links: tuple[tuple[str, str], ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: tuple[Mapping[str, Any], ...] = ()
    require: Mapping[str, float] = field(default_factory=dict)
    key: Mapping[str, Any] = field(default_factory=dict)
    rows: Path | None = None
    model: str | None = None
    why: str = ""
    other_settings: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        return self.result.state

    @property
    def leaves(self) -> Artifact:
        """The first of what it leaves; metrics where this version does not know the kind."""
        kind = STAGES.get(self.kind)
        return next(artifact for artifact in ARTIFACTS if artifact in kind.leaves) if kind else "metrics"

    @property
    def display(self) -> Display:
        """How its kind is shown; by its files where this version does not know the kind."""
        return STAGES[self.kind].display if self.kind in STAGES else Display()

    @property
    def about(self) -> str:
        return STAGES[self.kind].about if self.kind in STAGES else "a kind this version does not know"

    def settings_warning(self) -> list[str]:
        """What to say of a result that was made with other settings than the recipe has."""
        return [f"{OTHER_SETTINGS}: {', '.join(self.other_settings)}"] if self.other_settings else []

    def unmet(self) -> list[str]:
        """What `require:` asks for and the stage did not reach."""
        return [
            f"The recipe requires {name} of at least {self.require[name]:g}; it is {value}. The run stops here."
            for name, value in self.result.unmet(self.require).items()
        ]


@dataclass(frozen=True)
class Run:
    """A chain of stages: a recipe's, or what stands in a folder. `repeat` is the command that makes it again.

    subject     the stage it is about, where it is of a single result and those this was made from
    rounds      those of the recipe
    not_needed  stage of a later round → why it is not made
    """

    name: str
    stages: tuple[ReportedStage, ...]
    repeat: str = ""
    seed: int | None = None
    skipped: tuple[str, ...] = ()
    rounds: tuple[Rounds, ...] = ()
    not_needed: Mapping[str, str] = field(default_factory=dict)
    subject: str = ""

    @property
    def title(self) -> str:
        """'tiny-chat'; of a single result 'sft of tiny-chat', 'judge: dpo against sft'."""
        stage = self.get(self.subject)
        models = {role: name for name, role in stage.links} if stage else {}
        if "init" in models and "other" in models:
            return f"{self.subject}: {models['init']} against {models['other']}"
        return f"{self.subject} of {stage.result.folder.parent.name}" if stage else self.name

    @property
    def results(self) -> tuple[Result, ...]:
        return tuple(stage.result for stage in self.main_stages)

    def get(self, name: str) -> ReportedStage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def main_stages(self) -> tuple[ReportedStage, ...]:
        """Those whose numbers stand for the run: made with its settings, or where none is, with others."""
        return tuple(s for s in self.stages if not s.other_settings) if self.is_begun else self.stages

    @property
    def is_begun(self) -> bool:
        """Whether anything is made with the run's own settings."""
        return any(stage.state != "absent" and not stage.other_settings for stage in self.stages)

    @property
    def stamp(self) -> str:
        """Names the state of all results: equal stamps, equal pages."""
        stages = [[s.name, s.fingerprint, s.state, s.result.done, _sizes(s.result)] for s in self.stages]
        return digest([__version__, self.repeat, *stages], 16)


def _sizes(result: Result) -> list[int]:
    """How far a stage that is not finished has come; of a finished one its done.json says all."""
    if result.state != "unfinished":
        return []
    return [f.stat().st_size for f in sorted(result.folder.glob("*.json*")) if not f.name.startswith(".")]


def of_plan(planned: Plan, sets: Sequence[str] = ()) -> Run:
    words = ["ft run", planned.recipe.argument, *(f"--set {one}" for one in sets)]
    if planned.runs != Path("runs"):
        words.append(f"--runs {planned.runs}")
    recipe = planned.recipe
    stages = tuple(_of_variant(stage, planned) or _of_planned(stage, planned) for stage in planned.stages)
    name, seed, skipped, rounds = recipe.name, recipe.seed, recipe.skipped, recipe.rounds
    return Run(name, stages, " ".join(words), seed, skipped, rounds, planned.not_needed)


def _of_variant(planned: PlannedStage, whole: Plan) -> ReportedStage | None:
    """Of a stage that is not made with the recipe's settings, the newest result with others: a page of few steps does
    not take the place of one that shows all."""
    found = find_variant(whole, planned.name) if planned.state == "absent" else None
    return replace(_of_result(found.result), other_settings=found.other_settings) if found else None


def _of_planned(planned: PlannedStage, whole: Plan) -> ReportedStage:
    stage, model = planned.stage, whole.recipe.model_of(planned.stage)
    links = [(stage.init, "init")] if stage.init else []
    links += [(parent, name) for name, parent in stage.inputs.items()]
    links += [(parent, "data") for s in (*stage.data, *stage.eval_data) if (parent := reference(s["path"]))]
    return ReportedStage(
        name=planned.name,
        kind=stage.kind_name,
        result=planned.result,
        fingerprint=planned.fingerprint,
        links=tuple(dict.fromkeys(links)),
        blocks=stage.blocks,
        data=stage.data,
        require=stage.require,
        key=planned.key,
        rows=rows_folder(whole.runs, planned.rows_key, of_result=bool(planned.done)) if planned.rows_key else None,
        model=model.path if model and not stage.init and stage.kind.init else None,
        why=planned.why,
    )


def of_folder(path: Path) -> Run:
    """The results of a run's folder, the newest of each stage; or of one stage's folder, with those it is made from."""
    folder = path.resolve()
    if Result(folder).job:
        result = Result(folder)
        return Run(folder.name, tuple(map(_of_result, _with_parents(result))), subject=result.stage)
    newest: dict[str, Result] = {}
    for file in sorted(folder.glob(f"*/{artifacts.JOB}"), key=lambda file: (file.stat().st_mtime, file)):
        if ".old-" not in file.parent.name:
            result = Result(file.parent)
            newest[result.stage] = result
    if not newest:
        raise fail(str(path), "no recipe and no folder of results", "Name a .yaml file, runs/RECIPE, or a stage in it.")
    ordered: list[Result] = []
    for result in newest.values():
        ordered += [one for one in _with_parents(result) if one not in ordered]
    return Run(folder.name, tuple(map(_of_result, ordered)))


def _parents(result: Result) -> list[tuple[Result, str]]:
    """The results a stage read, each with what for, as its job.json has them."""
    links = [(result.job["init"], "init")] if result.job.get("init") else []
    links += [(place, name) for name, place in (result.job.get("inputs") or {}).items()]
    paths = [Path(source.get("path", "")) for source in result.job.get("data") or ()]
    links += [(str(path.parent), "data") for path in paths if path.name == artifacts.ROWS]
    parents = [(Result(_beside(result.folder, Path(place))), role) for place, role in links]
    return [(parent, role) for parent, role in parents if parent.job]


def _beside(folder: Path, place: Path) -> Path:
    """The folder of that name beside this one, where all of them were moved or copied together, else as the job names
    it."""
    beside = folder.parent / place.name
    return beside if beside.is_dir() else place


def _with_parents(result: Result, descendants: tuple[Result, ...] = ()) -> list[Result]:
    """The results it is made from, in the order they were made, itself last."""
    chain: list[Result] = []
    for parent, _ in _parents(result):
        if parent not in descendants:
            chain += [one for one in _with_parents(parent, (*descendants, result)) if one not in chain]
    return [*chain, result]


def _of_result(result: Result) -> ReportedStage:
    job, kind = result.job, str(result.job.get("kind"))
    starts = kind in STAGES and STAGES[kind].init and not job.get("init")
    return ReportedStage(
        name=result.stage,
        kind=kind,
        result=result,
        fingerprint=result.fingerprint,
        links=tuple((parent.stage, role) for parent, role in _parents(result)),
        blocks=result.blocks,
        data=tuple(job.get("data") or ()),
        require=job.get("require") or {},
        key=result.key,
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
