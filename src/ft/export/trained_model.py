"""A finished model as it lies in its folder: how it was made, from what, and what was measured of it since."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ft import artifacts
from ft.encode.truncation import long_rows_words
from ft.errors import fail
from ft.files import read_json
from ft.hub import local_path
from ft.models.lineage import is_adapter, is_reward, parts
from ft.recipe.precision import dtype_of_stage
from ft.result import Result
from ft.results.ledger import entries
from ft.stages import STAGES


class TrainedModel(Result):
    """A finished stage's folder that holds a model."""

    @classmethod
    def read(cls, folder: Path) -> TrainedModel:
        """Raises UserError where the folder is no finished model of ft."""
        model = cls(folder)
        if not model.done or not model.job:
            what = "this is no finished result" if folder.is_dir() else "there is no such folder"
            raise fail(str(folder), what, "Name a stage's folder (`ft runs` lists them), or a recipe and its stage.")
        kind = STAGES.get(model.kind)
        if kind is None or not kind.leaves_weights:
            raise fail(str(folder), f"a stage of kind '{model.kind}' leaves no model", "Name one that does.")
        return model

    @property
    def adapter(self) -> bool:
        return is_adapter(self.folder)

    @property
    def scores(self) -> bool:
        return is_reward(self.folder)

    @property
    def held(self) -> str:
        """The dtype in which the base's weights were held while the adapter was trained; whole weights are read as
        float32, which holds every other dtype exactly."""
        if not self.adapter:
            return "float32"
        dtype = parts(self.folder)[0].dtype
        if dtype or str(self.done["device"]).startswith("CPU"):
            return dtype or "float32"
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
        return self.hub_base or f"{public_path(bottom['path'])} (a local folder)"

    @property
    def hub_base(self) -> str | None:
        """The base as a Hub id, None where it is a folder of this machine."""
        bottom = self.chain[0].job.get("model")
        return bottom["path"] if bottom and local_path(bottom["path"]) is None else None

    @cached_property
    def chain(self) -> list[TrainedModel]:
        """The stages it was made by, the first one first; those whose folders are gone are left out."""
        above = TrainedModel.read(self.init).chain if self.init and Result(self.init).done else []
        return [*above, self]

    @cached_property
    def evaluations(self) -> list[Result]:
        """Results that judge this one, finished or not, each once. One that starts from another model and takes this
        one to compare with judges the other."""
        results = [result for result in entries(self.runs) if not result.set_aside and self._is_judged_by(result)]
        results.sort(key=lambda result: result.state == "done")  # of two with one name the finished one stays
        return list({(result.stage, result.fingerprint): result for result in results}.values())

    def _is_judged_by(self, result: Result) -> bool:
        measures = result.kind in STAGES and "metrics" in STAGES[result.kind].leaves
        of_this = bool(result.key.get("init", self.fingerprint) == self.fingerprint)
        return measures and of_this and self.fingerprint in result.parents

    def failures(self) -> Iterator[str]:
        """What went wrong on the way and is worth knowing."""
        for stage in self.chain:
            if stage.prepared.get("rejected"):
                yield f"{stage.stage}: {stage.prepared['rejected']:,} rows were bad and left out"
            if words := long_rows_words(stage.prepared.get("too_long", {})):
                yield f"{stage.stage}: rows: {words}"
        for result in self.evaluations:
            if result.state != "done":
                yield f"{result.stage}: begun and not finished"
            require = result.job.get("require", {})
            for metric, value in result.unmet(require).items():
                reached = "absent" if value is None else round(value, 4)
                yield f"{result.stage}: {metric} is {reached}, required was {require[metric]}"


def public_path(path: str) -> str:
    """A path as others may read it: no folders of this machine."""
    local = local_path(path)
    return local.name if local else path
