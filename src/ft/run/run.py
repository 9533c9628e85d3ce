"""Makes what a plan lacks: rows are prepared here, then each stage runs as a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ft import artifacts
from ft.bounds import is_at_least
from ft.console import talk
from ft.errors import fail
from ft.files import write_json
from ft.recipe import Kind, Recipe
from ft.results import store
from ft.results.locks import hold_result
from ft.results.set_aside import restore_command, set_aside
from ft.results.store import Plan, PlannedStage
from ft.run.accelerate_config import ONE_PROCESS, Launch
from ft.run.distributed import Leader, killed_by, leading
from ft.run.executor import start_stage
from ft.run.fork_server import has_accelerator
from ft.run.preflight import preflight
from ft.run.rows import prepare_rows


class StageFailed(Exception):
    """A stage's process ended badly; it has said why itself. `code` is what ft exits with."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def choose_stages(plan: Plan, to: str | None, only: str | None) -> list[PlannedStage]:
    """The stages meant: `--to S` is S, what it is made from, and the evaluations of these up to and behind S."""
    if only:
        return [plan.stage(only)]
    if not to:
        return list(plan.stages)
    if to in plan.not_needed:
        to = to.rpartition("-")[0]  # as far as rounds went
    needed = _ancestry(plan, plan.stage(to).name)
    last = plan.stages.index(plan.stage(to)) + 1
    while last < len(plan.stages) and "metrics" in plan.stages[last].stage.kind.leaves:
        last += 1
    judged = [p for p in plan.stages[:last] if "metrics" in p.stage.kind.leaves and needed.issuperset(p.stage.parents)]
    return [p for p in plan.stages if p.name in needed or p in judged]


def _ancestry(plan: Plan, name: str) -> set[str]:
    """The stage and everything it is made from."""
    stages, todo = set(), [name]
    while todo:
        stage = todo.pop()
        stages.add(stage)
        todo += [parent for parent in plan.stage(stage).stage.parents if parent not in stages]
    return stages


def run(
    recipe: Recipe,
    runs: Path,
    *,
    to: str | None = None,
    only: str | None = None,
    force: Sequence[str] = (),
    launch: Launch = ONE_PROCESS,
    jobs: int = 1,
) -> Plan:
    """Make the chosen stages, in order; finished ones are skipped. Of those that need nothing of each other, up to
    `jobs` are made at the same time. Returns the plan as it stands at the end."""
    plan = store.plan(recipe, runs, launch.processes)
    for notice in plan.notices:
        talk.print(notice, style="yellow")
    names = [p.name for p in choose_stages(plan, to, only)]
    forced = _made_from(plan, force)
    missing = [p for p in plan.stages if p.name in names and (p.state != "done" or p in forced)]
    _parents_are_there(plan, missing, forced)
    preflight(missing, launch, recipe.engine, f"{recipe.file}: engine")
    if forced:
        _set_aside(plan, forced, missing)
        plan = store.plan(recipe, runs, launch.processes)
    todo = [p for p in plan.stages if p.name in names]
    kinds, most = [p.stage.kind for p in missing], at_once(jobs, launch)
    with leading() as leader:
        while todo:
            group = todo[:1]
            if group[0].state != "done":
                group = side_by_side(plan, todo, most)
                _make(plan, group, launch, leader, kinds)
            for planned in group:
                _gate(planned)
            todo = todo[len(group) :]
            if any(_decides(recipe, planned) for planned in group):
                plan = store.plan(recipe, runs, launch.processes)
                todo = _still_needed(plan, todo, to, only)
    return store.plan(recipe, runs, launch.processes)


def _decides(recipe: Recipe, planned: PlannedStage) -> bool:
    """Whether a stop rule reads the stage, so that what stands behind it may change with its numbers."""
    return any(rounds.decides(planned.name) for rounds in recipe.rounds)


def _still_needed(plan: Plan, todo: Sequence[PlannedStage], to: str | None, only: str | None) -> list[PlannedStage]:
    """What is left to do, planned anew after a stop rule was asked."""
    left = {planned.name for planned in todo}
    reasons: dict[str, list[str]] = {}
    for name in [planned.name for planned in todo if planned.name in plan.not_needed]:
        reasons.setdefault(plan.not_needed[name], []).append(name)
    for reason, names in reasons.items():
        talk.print(f"{', '.join(names)}: not needed; {reason}")
    return [planned for planned in choose_stages(plan, to, only) if planned.name in left]


def _made_from(plan: Plan, names: Sequence[str]) -> list[PlannedStage]:
    """The stages of these names, and those made from them."""
    chosen = {plan.stage(name).name for name in names}
    return [planned for planned in plan.stages if chosen & _ancestry(plan, planned.name)]


def _parents_are_there(plan: Plan, missing: Sequence[PlannedStage], forced: Sequence[PlannedStage]) -> None:
    """Raises UserError where a stage is made from one that is not made and will not be, or is about to be set aside."""
    names = {planned.name for planned in missing}
    made = {planned.name for planned in plan.stages if planned.state == "done" and planned not in forced}
    for planned in missing:
        if lacking := [name for name in planned.stage.parents if name not in names | made]:
            what = f"'{planned.name}' needs {', '.join(lacking)}, which is not made"
            raise fail(planned.stage.where, what, "Run without --only.")


def _set_aside(plan: Plan, forced: Sequence[PlannedStage], missing: Sequence[PlannedStage]) -> None:
    """Set the results of these stages aside, last of all: rows that are refused refuse the command before it."""
    for planned in forced:
        if planned in missing and plan.preparable(planned):
            prepare_rows(plan, planned, notes=False)
    moved = set_aside(plan.runs, [planned.folder for planned in forced if planned.folder.exists()])
    if moved:
        talk.print(f"set aside: {', '.join(map(str, moved))}\nto bring back: {restore_command(plan.runs, moved)}")


def at_once(jobs: int, launch: Launch) -> int:
    """How many stages are made at the same time: a GPU's memory, and a launcher's processes, are one stage's."""
    if jobs > 1 and (launch != ONE_PROCESS or has_accelerator()):
        talk.print("one stage at a time: --jobs is for stages that share a CPU", style="yellow")
        return 1
    return jobs


def side_by_side(plan: Plan, todo: Sequence[PlannedStage], most: int) -> list[PlannedStage]:
    """The first stage of `todo`, and those right behind it that can be made at the same time: what they are made from
    is there, and no `require:` before them is still to be met."""
    stages = [todo[0]]
    for planned in todo[1:most]:
        lacking = [name for name in planned.stage.parents if not plan.stage(name).done]
        if planned.state == "done" or lacking or stages[-1].stage.require or _decides(plan.recipe, stages[-1]):
            break
        stages.append(planned)
    return stages


def _make(
    plan: Plan, stages: Sequence[PlannedStage], launch: Launch, leader: Leader | None, kinds: Sequence[Kind]
) -> None:
    """Make these stages at the same time. Ctrl-C reaches their processes too; what they saved by then, the next run
    continues from. `kinds` are those of all stages that this run makes."""
    with ExitStack() as locks:
        for planned in stages:
            locks.enter_context(hold_result(plan.runs, planned.folder))
        # another command may have made one since the plan: a finished result is never made again
        stages = [planned for planned in stages if not planned.done]
        for planned in stages:
            prepare_rows(plan, planned)
        jobs = [_job(plan, planned, launch) for planned in stages]
        started = [
            start_stage(job, planned.stage.kind, launch, leader, kinds, len(stages))
            for job, planned in zip(jobs, stages, strict=True)
        ]
        codes = [one.code() for one in started]
    for planned, code in zip(stages, codes, strict=True):
        _raise_for(planned, code)


def _job(plan: Plan, planned: PlannedStage, launch: Launch) -> Path:
    """Say what is made, and write down what its process is given."""
    folder = planned.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / artifacts.KEY, planned.key)
    job = plan.job(planned).write()
    talk.print(f"{planned.name}: {planned.why or 're-run'} → {folder}")
    _say_batch(planned, launch)
    return job


def _raise_for(planned: PlannedStage, code: int) -> None:
    """StageFailed, with what the exit code of a stage's process means."""
    if code == 2:
        raise StageFailed("", 2)
    if code in (130, -signal.SIGINT):
        raise StageFailed(f"{planned.name}: interrupted. The same command continues.", 130)
    if code < 0:
        raise StageFailed(f"{planned.name}: {killed_by(-code)}. The same command continues.", 1)
    if code:
        if planned.result.checkpoints:
            raise StageFailed(f"{planned.name}: ended with exit code {code}. The same command continues.", 1)
        raise StageFailed(f"{planned.name}: failed with exit code {code}. What failed stands above.", 1)


def _say_batch(planned: PlannedStage, launch: Launch) -> None:
    """Several processes see more rows per step, unless the recipe says how many; and only training uses them."""
    if launch.processes == 1:
        return
    name, stage, batch = planned.name, planned.stage, planned.batch
    if not stage.kind.trains:
        talk.print(f"{name}: made by one process of {launch.processes}; kind '{stage.kind_name}' does not train")
    elif stage.global_batch:
        talk.print(f"{name}: {launch.processes} processes, global batch size {batch}")
    elif batch:
        one = batch // launch.processes
        text = f"{name}: {launch.processes} processes, global batch size {batch}; one process would have {one}"
        talk.print(f"{text}, and so would these with `global_batch: {one}`", style="yellow")


def _gate(planned: PlannedStage) -> None:
    """`require:` names the least a result must reach for the chain to go on."""
    numbers = planned.result.numbers
    for metric, least in planned.stage.require.items():
        value = numbers.get(metric)
        if value is None:
            names = ", ".join(k for k, v in numbers.items() if isinstance(v, (int, float)))
            raise fail(planned.stage.where, f"require: no metric '{metric}'", f"There are: {names}.")
        if not is_at_least(value, least):
            number = f"{value:.4g}" if isinstance(value, (int, float)) else "no number"
            text = f"{planned.name}: {metric} is {number}, and the recipe requires {least}. The run stops here."
            raise StageFailed(text, 1)
