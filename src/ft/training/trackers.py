"""Trackers of experiments (`train: {report_to: …}`): a project for each recipe, a group for each runs folder, a run for
each stage, with its numbers and sample answers at its end.

A tracker is told by environment variables, which win where the user has set them. What it writes on this machine lies
in the recipe's folder of results, and a stage that goes on after an interruption goes on in the same run.

To add one: an entry in TRACKERS.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from copy import copy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.console import talk
from ft.figures.result_files import ResultFiles, text_of
from ft.files import write_text
from ft.printable import printable, printable_line
from ft.recipe.job import Job
from ft.result import Result
from ft.training.stage_trainer import StageTrainer

Environment = Mapping[str, str]
Cell = str | float | bool | None
SAMPLES = 100  # rows of a table: trackers show tables in a browser


@dataclass(frozen=True)
class TrackedRun:
    """A stage's run at a tracker. Its `id` stays as long as the stage's folder does; `space` is one of the Hub."""

    result: Result
    id: str
    project: str
    name: str
    space: str | None = None

    @property
    def group(self) -> str:
        return str(self.result.folder.parent)

    @property
    def short_name(self) -> str:
        """For a tracker that knows a run by its name alone: two results of one stage have two."""
        return f"{self.name}-{self.id[:6]}"


@dataclass(frozen=True)
class SampleTable:
    """Prompts and answers, a row each; `columns` are those of any row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)


@dataclass(frozen=True)
class Tracker:
    """What transformers' callback of a tracker reads, and how a person sees it.

    package      that must be installed
    environment  of the result it is about, and the id of its run there
    look         the command, or the place, where a result's curves are seen
    record       adds numbers of a stage that has ended, and its sample answers where there are any, to its run
    """

    package: str
    environment: Callable[[Result, str], Environment]
    look: Callable[[Result], str]
    record: Callable[[TrackedRun, Mapping[str, float], SampleTable | None], None]


def _wandb(result: Result, run_id: str) -> Environment:
    return {
        "WANDB_PROJECT": result.recipe,
        "WANDB_RUN_GROUP": str(result.folder.parent),
        "WANDB_JOB_TYPE": result.stage,
        "WANDB_DIR": str(result.folder),
        "WANDB_RUN_ID": run_id,
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
    }


def _look_at_wandb(result: Result) -> str:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return f"wandb sync {result.folder.parent}/*/wandb/offline-run-*"
    entity = os.environ.get("WANDB_ENTITY", "YOU")
    return f"https://wandb.ai/{entity}/{os.environ.get('WANDB_PROJECT', result.recipe)}"


def _record_in_wandb(run: TrackedRun, numbers: Mapping[str, float], samples: SampleTable | None) -> None:
    import wandb

    wandb_run = wandb.run or wandb.init(name=run.name)
    wandb_run.summary.update(dict(numbers))
    if samples:
        rows = [list(row) for row in samples.rows]
        wandb_run.log({"samples": wandb.Table(list(samples.columns), rows, allow_mixed_types=True)})
    wandb_run.finish()  # a process that was forked ends without Python's exit handlers


def _record_in_tensorboard(run: TrackedRun, numbers: Mapping[str, float], samples: SampleTable | None) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
        for name, number in numbers.items():
            writer.add_scalar(name, number)
        if samples:
            writer.add_text("samples", samples.markdown)


def _record_in_trackio(run: TrackedRun, numbers: Mapping[str, float], samples: SampleTable | None) -> None:
    import trackio

    with redirect_stdout(StringIO()):
        trackio.init(run.project, run.short_name, run.group, resume="allow", space_id=run.space)
        rows = [dict(zip(samples.columns, row, strict=True)) for row in samples.rows] if samples else []
        trackio.log({**numbers, **({"samples": trackio.Table(data=rows)} if rows else {})})
        trackio.finish()


def _record_in_mlflow(run: TrackedRun, numbers: Mapping[str, float], samples: SampleTable | None) -> None:
    import mlflow

    mlflow.flush_async_logging()  # what the trainer has logged
    mlflow.end_run()
    client, run_id = mlflow.MlflowClient(), _mlflow_run(run)
    for name, number in numbers.items():
        client.log_metric(run_id, name, number)
    if samples and not client.list_artifacts(run_id):  # a table of the same name would grow
        cells = {name: [row[place] for row in samples.rows] for place, name in enumerate(samples.columns)}
        client.log_table(run_id, cells, "samples.json")
    client.set_terminated(run_id)


def _mlflow_run(run: TrackedRun) -> str:
    """The id that MLflow has given to the run, which is made where there is none; found again by a tag.

    Without a place of their own its files would lie in the folder that the command was started in.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client, name = mlflow.MlflowClient(), os.environ["MLFLOW_EXPERIMENT_NAME"]
    is_here = os.environ["MLFLOW_TRACKING_URI"] == _mlflow_file(run.result)
    place = (run.result.folder.parent.absolute() / "mlflow-artifacts").as_uri() if is_here else None
    experiment = client.get_experiment_by_name(name)
    try:
        key = experiment.experiment_id if experiment else client.create_experiment(name, place)
    except MlflowException:  # a stage beside this one has made it in the meantime
        key = client.get_experiment_by_name(name).experiment_id
    made = client.search_runs([key], f"tags.ft_run = '{run.id}'")
    if made:
        return str(made[0].info.run_id)
    tags = {"ft_run": run.id, "group": run.group, "stage": run.result.stage}
    return str(client.create_run(key, tags=tags, run_name=run.name).info.run_id)


def _mlflow_file(result: Result) -> str:
    return f"sqlite:///{result.folder.parent / 'mlflow.db'}"


TRACKERS = {
    "wandb": Tracker("wandb", _wandb, _look_at_wandb, _record_in_wandb),
    "tensorboard": Tracker(
        "tensorboard",
        lambda result, run_id: {"TENSORBOARD_LOGGING_DIR": str(result.folder / "tensorboard")},
        lambda result: f"tensorboard --logdir {result.folder.parent}",
        _record_in_tensorboard,
    ),
    "trackio": Tracker(
        "trackio",
        lambda result, run_id: {"TRACKIO_DIR": str(result.folder.parent / "trackio")},
        lambda result: f"TRACKIO_DIR={result.folder.parent / 'trackio'} trackio show --project {result.recipe}",
        _record_in_trackio,
    ),
    "mlflow": Tracker(
        "mlflow",
        lambda result, run_id: {
            "MLFLOW_TRACKING_URI": _mlflow_file(result),
            "MLFLOW_EXPERIMENT_NAME": result.recipe,
            "MLFLOW_LOGGING_LEVEL": "WARNING",  # it tells of every table of its database
        },
        lambda result: f"mlflow ui --backend-store-uri {_mlflow_file(result)}",
        _record_in_mlflow,
    ),
}


def named_trackers(report_to: Any) -> list[str]:
    """Those that `train.report_to` names."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    return [name for name in names if name != "none"]


def _settings(result: Result) -> Mapping[str, Any]:
    """The keys of `train:` that say where a stage reports to; for one that trains nothing, those of the stage whose
    model it starts from."""
    if "train" in result.blocks or not result.init:
        return result.blocks.get("train", {})
    return {**Result(result.init).blocks.get("train", {}), "run_name": None}


def _trackers_of(result: Result) -> list[str]:
    return [name for name in named_trackers(_settings(result).get("report_to")) if name in TRACKERS]


def tracker_arguments(folder: Path, train: Mapping[str, Any]) -> dict[str, str]:
    """What the trainer's arguments say of the run, and the environment for its trackers."""
    names = named_trackers(train.get("report_to"))
    if not names:
        return {}
    run = _tracked_run(folder, train)
    if os.environ.get("RANK", "0") == "0":  # the others report nothing
        _set_environment(names, run)
    return {"run_name": run.name, "project": run.project}


def _tracked_run(folder: Path, train: Mapping[str, Any]) -> TrackedRun:
    result = Result(folder)
    project, name = train.get("project") or result.recipe, train.get("run_name") or result.stage
    return TrackedRun(result, _run_id(folder), project, name, train.get("trackio_space_id"))


def _run_id(folder: Path) -> str:
    """The id of the tracker's run, which stays for as long as the folder does."""
    file = folder / artifacts.TRACKER_RUN
    if not file.exists():
        write_text(file, secrets.token_hex(8))
    return file.read_text(encoding="utf-8").strip()


def _set_environment(names: Sequence[str], run: TrackedRun) -> None:
    for name in names:
        for variable, value in TRACKERS[name].environment(run.result, run.id).items():
            os.environ.setdefault(variable, value)


def follow_runs(trainer: StageTrainer, job: Job) -> None:
    """Lead the trainer's callbacks to the stage's own runs at trackers that know no ids of ours."""
    names = named_trackers(job.block("train").get("report_to"))
    if not trainer.is_world_process_zero():
        return
    run = _tracked_run(job.folder, job.block("train")) if names else None
    if run and "mlflow" in names and "MLFLOW_RUN_ID" not in os.environ:
        _follow_mlflow_run(run)
    if run and "trackio" in names:
        _follow_trackio_run(trainer, run)


def _follow_mlflow_run(run: TrackedRun) -> None:
    import mlflow

    os.environ["MLFLOW_RUN_ID"] = run_id = _mlflow_run(run)
    if mlflow.MlflowClient().get_run(run_id).data.params:
        os.environ["MLFLOW_MAX_LOG_PARAMS"] = "0"  # they stand there, and MLflow lets none be changed


def _follow_trackio_run(trainer: StageTrainer, run: TrackedRun) -> None:
    """Trackio goes on in the newest run of a name, which may be of other settings, or of what `--force` set aside; it
    tells what it does on stdout, which is the command's."""
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import TrackioCallback

    class OwnRun(TrackioCallback):
        def setup(self, args: TrainingArguments, state: TrainerState, model: object, **kwargs: Any) -> None:
            named = copy(args)
            named.run_name = run.short_name
            with redirect_stdout(StringIO()):
                super().setup(named, state, model, **kwargs)

        def on_train_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *others: object, **kwargs: Any
        ) -> None:
            with redirect_stdout(StringIO()):
                super().on_train_end(args, state, control, **kwargs)

    trainer.remove_callback(TrackioCallback)
    trainer.add_callback(OwnRun())


def record_result(job: Job, numbers: Mapping[str, Any]) -> None:
    """The numbers of a stage that has ended, and its sample answers, to its trackers. A stage is made without that."""
    result = Result(job.folder)
    names = _trackers_of(result)
    if not names:
        return
    run = _tracked_run(job.folder, _settings(result))
    _set_environment(names, run)
    shown = {f"result/{name}": value for name, value in numbers.items() if type(value) in (int, float)}
    samples = sample_table(job.folder)
    for name in names:
        try:
            TRACKERS[name].record(run, shown, samples)
        except Exception as error:  # whatever a tracker's library or server fails by
            text = f"{job.name}: {name} took no numbers of the stage: {printable_line(str(error))}"
            talk.print(text, style="yellow")


def sample_table(folder: Path) -> SampleTable | None:
    """Up to 100 rows of the answers that a stage left, evenly from the first to the last; None where it left none."""
    lines = [
        line
        for name in (artifacts.ROLLOUTS, artifacts.SAMPLES, artifacts.ANSWERS)
        for line in ResultFiles(folder).lines(name)
    ]
    rows = [dict(_cells(line)) for line in lines[:: -(-len(lines) // SAMPLES) or 1]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return SampleTable(columns, [[row.get(name) for name in columns] for row in rows]) if rows else None


def _cells(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Cell]]:
    """(column, value) of a row; messages as text, secrets masked."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _cells(value, f"{prefix}{name}/")
        elif value is None or isinstance(value, (bool, int, float)):
            yield prefix + name, value
        else:
            yield prefix + name, printable(_text(value))


def _text(value: object) -> str:
    """'user: hello' for each message; of anything else its text."""
    if isinstance(value, list) and all(isinstance(one, Mapping) and "role" in one for one in value):
        return "\n".join(f"{one['role']}: {text_of(one)}" for one in value)
    return text_of(value)


def _markdown_cell(cell: Cell) -> str:
    return str("" if cell is None else cell).replace("|", "\\|").replace("\n", "<br>")


def places_to_look(result: Result) -> Iterator[str]:
    """Where the curves of a result are seen, for each tracker it reports to."""
    return (TRACKERS[name].look(result) for name in _trackers_of(result))


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(TRACKERS[name].package) is not None
