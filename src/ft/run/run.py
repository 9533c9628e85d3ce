"""Makes what a plan lacks: rows are prepared here, then each stage runs as a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.bounds import is_at_least
from ft.console import talk
from ft.data.sources.bytes import CHANGED
from ft.data.sources.read import file_hash
from ft.encode.prepare import prepare, rows_folder
from ft.errors import Problems, fail
from ft.files import write_json
from ft.imports import uncollected
from ft.models.device import keep_freed_memory
from ft.models.processor import encoder_of
from ft.notices import quiet_bars
from ft.progress import Progress
from ft.recipe import Kind, Recipe
from ft.recipe.job import Job
from ft.recipe.kind import function_at
from ft.results import store
from ft.results.store import Plan, PlannedStage
from ft.run.accelerate_config import ONE_PROCESS, Launch
from ft.run.distributed import Leader, killed_by, leading
from ft.run.executor import ENDS_WITH_PARENT, start_stage
from ft.run.fork_server import has_accelerator
from ft.run.preflight import preflight
from ft.secret_files import clean, in_rows, refuse
from ft.stages import STAGES
from ft.versions import versions


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
    names = [p.name for p in choose_stages(plan, to, only)]
    for name in force:
        _set_aside(plan, name)
        plan = store.plan(recipe, runs, launch.processes)
    todo = [p for p in plan.stages if p.name in names]
    missing = [p for p in todo if p.state != "done"]
    preflight(missing, launch)
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
    for name in sorted(left & plan.not_needed.keys()):
        talk.print(f"{name}: not needed; {plan.not_needed[name]}")
    return [planned for planned in choose_stages(plan, to, only) if planned.name in left]


def prepare_rows(plan: Plan, planned: PlannedStage) -> None:
    """Render and tokenise the stage's rows into the cache, unless they are there. Another command that is at the same
    rows is waited for; what one left that was killed at them is cleared away."""
    if planned.rows_key is None:
        return
    folder = rows_folder(plan.runs, planned.rows_key)
    if (folder / artifacts.STATS).exists():
        return
    with hold_lock(plan.runs, folder.name):
        if (folder / artifacts.STATS).exists():
            return
        for partial in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(partial)
        try:
            _prepare(plan, planned, folder)
        except OSError as error:
            what = f"the rows cannot be written: {error.strerror or error}"
            raise fail(
                str(folder), what, "Nothing is left of them; make room, and the same command tries again."
            ) from error


def _prepare(plan: Plan, planned: PlannedStage, folder: Path) -> None:
    assert planned.rows_key is not None
    stage = planned.stage
    options = stage.kind.blocks["rows"].load()(**stage.blocks.get("rows", {}))
    max_length, init = planned.rows_key["max_length"], plan.tokenizer_folder(planned)
    encoder = encoder_of(plan.recipe.model_of(stage), init, planned.key.get("chat_template"), options, max_length)
    with Progress(f"{planned.name}: preparing rows", unit="rows") as progress:
        stats = prepare(
            folder,
            plan.sources(planned, "data"),
            plan.sources(planned, "eval_data"),
            encoder,
            rows=options,
            max_length=max_length,
            packing=planned.rows_key["packing"],
            seed=plan.recipe.seed,
            tick=progress.advance,
        )
    talk.print(f"{planned.name}: {rows_line(stats)}")
    if stats["rejected"]:
        talk.print(f"{planned.name}: rejected rows are in {folder / artifacts.REJECTS}", style="yellow")
    for note in stats["notes"]:
        talk.print(f"{planned.name}: {note}", style="yellow")


def rows_line(stats: Mapping[str, Any]) -> str:
    """What became of the rows, in one line: nothing is dropped in silence."""
    train, held_out, long = stats["train"], stats["eval"], stats["too_long"]
    words = [f"{train['rows']:,} rows, {train['tokens']:,} tokens, {train['trained_tokens']:,} of them trained"]
    if held_out:
        words.append(f"{held_out['rows']:,} rows held out")
    if "fill" in train:
        words.append(f"packed into {train['trainer_rows']:,} rows, {train['fill']:.0%} full")
    if stats["rejected"]:
        words.append(f"{stats['rejected']:,} rejected")
    if long["rows"]:
        words.append(f"{long['rows']:,} too long: {long['dropped']:,} dropped, {long['turns']:,} old turns cut")
    if stats["answers_shortened"]:
        words.append(
            f"{stats['answers_shortened']:,} untrained answers without their thinking, as the template writes them"
        )
    return "; ".join(words)


def _parents_are_there(plan: Plan, planned: PlannedStage) -> None:
    missing = [name for name in planned.stage.parents if not plan.stage(name).done]
    if missing:
        what = f"'{planned.name}' needs {', '.join(missing)}, which is not made"
        raise fail(planned.stage.where, what, "Run without --only.")


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
            _parents_are_there(plan, planned)
            locks.enter_context(hold_result(plan.runs, planned.folder))
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
    folder, work = planned.folder, plan.job(planned)
    refuse(planned.stage.where, {**planned.key, **work.blocks})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / artifacts.KEY, planned.key)
    job = work.write()
    talk.print(f"{planned.name}: {planned.why or 'made anew'} → {folder}")
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
        raise StageFailed(f"{planned.name}: failed with exit code {code}. The same command tries again.", 1)


def _say_batch(planned: PlannedStage, launch: Launch) -> None:
    """Several processes see more rows a step, unless the recipe says how many; and only training uses them."""
    if launch.processes == 1:
        return
    name, stage, batch = planned.name, planned.stage, planned.batch
    if not stage.kind.trains:
        talk.print(f"{name}: made by one process of {launch.processes}; kind '{stage.kind_name}' does not train")
    elif stage.global_batch:
        talk.print(f"{name}: {launch.processes} processes, {batch} rows a step")
    elif batch:
        one = batch // launch.processes
        text = f"{name}: {launch.processes} processes, {batch} rows a step; one process would see {one}"
        talk.print(f"{text}, and so would these with `global_batch: {one}`", style="yellow")


@contextmanager
def hold_result(runs: Path, folder: Path) -> Iterator[None]:
    """Two commands never make the same result at once, under whatever recipe's name."""
    try:
        with hold_lock(runs, folder.name, wait=False):
            yield
    except BlockingIOError:
        raise fail(str(folder), "another `ft run` is making this result", "Wait for it, or stop it.") from None


@contextmanager
def hold_lock(runs: Path, name: str, wait: bool = True) -> Iterator[None]:
    """A lock falls with its process, however that ends. Raises BlockingIOError when it is taken and not waited for."""
    file = artifacts.lock_file(runs, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def make_stage(job_file: Path) -> None:
    """A stage's own process: do the work, then write done.json, last and by rename."""
    job = Job.read(job_file)
    if os.environ.get(ENDS_WITH_PARENT):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    _import_libraries(STAGES[job.kind])
    quiet_bars()
    keep_freed_memory()
    started = time.monotonic()
    check_files(job)
    numbers = function_at(STAGES[job.kind].make)(job)
    check_files(job)
    if os.environ.get("RANK", "0") != "0":
        return
    _no_secrets(job, numbers)
    from ft.models.device import describe

    done = {
        "stage": job.name,
        "kind": job.kind,
        "fingerprint": job.fingerprint,
        "numbers": numbers,
        "seconds": round(time.monotonic() - started, 1),
        "device": describe(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": versions(),
    }
    write_json(job.folder / artifacts.DONE, done)


def check_files(job: Job) -> None:
    """What was read is what the result is named by: banks and prompts are small, and hashed before and after."""
    for path, sha256 in job.files.items():
        if file_hash(Path(path), None) != sha256:
            raise fail(path, *CHANGED)


def _no_secrets(job: Job, numbers: Mapping[str, Any]) -> None:
    """What a stage wrote holds no token, or the stage does not count as made; tokens in rows are only told of."""
    problems = clean(job.folder)
    for problem in (p for p in problems if in_rows(p)):
        talk.print(f"{job.name}: {problem}", style="yellow")
    Problems(p for p in problems if not in_rows(p)).raise_any()
    refuse(str(job.folder / artifacts.DONE), numbers)


def _end_with_parent() -> None:
    """When `ft run` is killed, its end of our stdin closes: a stage left behind would write beside the next one."""
    while os.read(0, 1):
        continue
    os._exit(1)


def _import_libraries(kind: Kind) -> None:
    """What the stage will import, at once."""
    with uncollected():
        function_at(kind.make)
        if kind.trains:
            import ft.training.trl_compat  # noqa: F401  TRL's trainers take most of the time


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
            text = f"{planned.name}: {metric} is {number}, and the recipe requires {least}. The chain stops here."
            raise StageFailed(text, 1)


def _set_aside(plan: Plan, name: str) -> None:
    """Rename the stage's folder and those made from it: nothing is overwritten, nothing is deleted."""
    plan.stage(name)
    for planned in plan.stages:
        if name in _ancestry(plan, planned.name) and planned.folder.exists():
            count = len(list(planned.folder.parent.glob(f"{planned.folder.name}.old-*")))
            with hold_result(plan.runs, planned.folder):
                planned.folder.rename(planned.folder.with_name(f"{planned.folder.name}.old-{count + 1}"))
