"""A finished model as it lies in its folder: how it was made, from what, and what was measured of it since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.errors import fail
from ft.files import read_json
from ft.hub import local_path
from ft.models.load import is_adapter, is_reward, parts
from ft.recipe.precision import dtype_of_stage
from ft.results.ledger import Entry, entries
from ft.stages import STAGES


@dataclass(frozen=True)
class Result:
    """A stage's folder with what its `done.json`, `job.json` and `key.json` say."""

    folder: Path
    done: Mapping[str, Any]
    job: Mapping[str, Any]
    key: Mapping[str, Any]

    @staticmethod
    def read(folder: Path) -> Result:
        """Raises UserError where the folder is no finished model of ft."""
        done, job, key = (read_json(folder / f"{name}.json") for name in ("done", "job", "key"))
        if done is None or job is None:
            what = "this is no finished result" if folder.is_dir() else "there is no such folder"
            raise fail(str(folder), what, "Name a stage's folder (`ft runs` lists them), or a recipe and its stage.")
        kind = STAGES.get(done["kind"])
        if kind is None or not kind.leaves_weights:
            raise fail(str(folder), f"a stage of kind '{done['kind']}' leaves no model", "Name one that does.")
        return Result(folder, done, job, key or {})

    @property
    def recipe(self) -> str:
        return self.folder.absolute().parent.name

    @property
    def name(self) -> str:
        return str(self.job["name"])

    @property
    def kind(self) -> str:
        return str(self.done["kind"])

    @property
    def fingerprint(self) -> str:
        return str(self.done["fingerprint"])

    @property
    def runs(self) -> Path:
        return self.folder.absolute().parent.parent

    @property
    def adapter(self) -> bool:
        return is_adapter(self.folder)

    @property
    def scores(self) -> bool:
        return is_reward(self.folder)

    @property
    def blocks(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.job["blocks"]
        return found

    @property
    def held(self) -> str:
        """The dtype in which the base's weights were held while the adapter was trained; whole weights are read as
        float32, which holds every other dtype exactly."""
        if not self.adapter:
            return "float32"
        given = parts(self.folder)[0].dtype
        if given or str(self.done["device"]).startswith("CPU"):
            return given or "float32"
        return dtype_of_stage(STAGES[self.kind], self.blocks)

    @property
    def dtype(self) -> str:
        """What it is exported in unless asked otherwise: what the run computed in, or what whole weights are in."""
        if self.adapter:
            _, _, quantization = parts(self.folder)
            return (quantization or {}).get("bnb_4bit_compute_dtype") or self.held
        return str((read_json(self.folder / artifacts.CONFIG) or {}).get("dtype") or "float32")

    @property
    def base(self) -> str:
        """The model at the bottom of the chain: a Hub id, or the name of a local folder."""
        bottom = self.chain[0].job.get("model")
        if not bottom:
            return "nothing: trained from random weights"
        return self.hub_base or f"{shown(bottom['path'])} (a local folder)"

    @property
    def hub_base(self) -> str | None:
        """The base as a Hub id, None where it is a folder of this machine."""
        bottom = self.chain[0].job.get("model")
        return bottom["path"] if bottom and local_path(bottom["path"]) is None else None

    @cached_property
    def chain(self) -> list[Result]:
        """The stages it was made by, the first one first; those whose folders are gone are left out."""
        init = self.job.get("init")
        above = []
        if init and read_json(Path(init) / artifacts.DONE):
            above = Result.read(Path(init)).chain
        return [*above, self]

    @cached_property
    def evaluations(self) -> list[Entry]:
        """Results that judge this one, finished or not, each once. One that starts from another model and takes this
        one to compare with judges the other."""
        made = [one for one in entries(self.runs) if one.state != "set aside" and self._judged_by(one)]
        made.sort(key=lambda one: one.state == "done")  # of two with one name the finished one stays
        return list({(one.stage, one.fingerprint): one for one in made}.values())

    def _judged_by(self, one: Entry) -> bool:
        if self.fingerprint not in one.parents or one.kind not in STAGES or "metrics" not in STAGES[one.kind].leaves:
            return False
        return one.key.get("init", self.fingerprint) == self.fingerprint

    def failures(self) -> Iterator[str]:
        """What went wrong on the way and is worth knowing."""
        for stage in self.chain:
            stats = (read_json(Path(stage.job["rows"]) / artifacts.STATS) if stage.job.get("rows") else None) or {}
            if stats.get("rejected"):
                yield f"{stage.name}: {stats['rejected']:,} rows were bad and left out"
            long = stats.get("too_long", {})
            if long.get("rows"):
                left = f"{long['dropped']:,} left out, {long['turns']:,} old turns cut"
                yield f"{stage.name}: {long['rows']:,} rows were too long ({left})"
        for one in self.evaluations:
            if one.state != "done":
                yield f"{one.stage}: begun and not finished"
            for metric, least in (read_json(one.folder / artifacts.JOB) or {}).get("require", {}).items():
                value = one.numbers.get(metric)
                if value is None or value < least:
                    reached = "absent" if value is None else round(value, 4)
                    yield f"{one.stage}: {metric} is {reached}, required was {least}"


def shown(path: str) -> str:
    """A path as others may read it: no folders of this machine."""
    local = local_path(path)
    return local.name if local else path
