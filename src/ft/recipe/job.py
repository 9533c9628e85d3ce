"""What a stage's function is given: checked values and resolved places, never YAML, references or other stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.files import read_mapping, write_json
from ft.recipe import ModelSource
from ft.recipe.engine import LOCAL, EngineOptions


@dataclass(frozen=True)
class Job:
    """One stage to make.

    folder    where the result goes; `checkpoints/` and `metrics.jsonl` inside
    model     the recipe's model; None when the stage starts from nothing
    init      folder of the stage it starts from; None: from `model`
    inputs    input name → folder of the stage that made it
    rows      folder of prepared rows (see ft.encode.prepare), for kinds that train on rows
    data      the sources themselves, for kinds that read rows on their own; `eval_data` those held out
    blocks    block name → checked values
    files     file that a block names → SHA-256 of what it held when the plan was made
    template  chat template as text; None: the one the model carries
    global_batch  rows per optimizer step over all processes; None: as the train block says
    processes     how many the stage was started with
    engine        where what it asks models is computed
    """

    name: str
    kind: str
    fingerprint: str
    folder: Path
    seed: int
    where: str
    model: ModelSource | None = None
    init: Path | None = None
    inputs: Mapping[str, Path] = field(default_factory=dict)
    rows: Path | None = None
    data: tuple[Mapping[str, Any], ...] = ()
    eval_data: tuple[Mapping[str, Any], ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    require: Mapping[str, float] = field(default_factory=dict)
    global_batch: int | None = None
    processes: int = 1
    engine: EngineOptions = LOCAL

    @property
    def checkpoints(self) -> Path:
        return self.folder / artifacts.CHECKPOINTS

    def block(self, name: str) -> Mapping[str, Any]:
        return self.blocks.get(name, {})

    def write(self) -> Path:
        path = self.folder / artifacts.JOB
        write_json(path, asdict(self))
        return path

    @staticmethod
    def read(path: Path) -> Job:
        """Raises UserError where the file is none that `write` has written."""
        values = read_mapping(path)
        if not {"name", "kind", "folder", "data"} <= values.keys():
            raise fail(str(path), "this is no stage's job.json", "Stages are started by `ft run`.")
        values |= {key: Path(values[key]) if values[key] else None for key in ("init", "rows")}
        values |= {"folder": Path(values["folder"]), "data": tuple(values["data"])}
        values["eval_data"] = tuple(values["eval_data"])
        values["inputs"] = {name: Path(folder) for name, folder in values["inputs"].items()}
        values["model"] = ModelSource(**values["model"]) if values["model"] else None
        values["engine"] = EngineOptions(**values.get("engine", {}))
        return Job(**values)
