"""Which result a stage has, found by what decides it.

A result is a folder `runs/<recipe>/<stage>-<fingerprint>/`. Absent: make it. There without `done.json`: resume it.
`done.json`: skip it. A finished folder of the same fingerprint under another recipe's name serves as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ft import artifacts
from ft.data.sources.read import Source, file_hash
from ft.data.sources.read import fingerprint as source_fingerprint
from ft.encode.conversation import template
from ft.encode.prepare import RowsKey, rows_folder
from ft.errors import Problems, UserError, fail
from ft.families import CAUSAL, Family, family_of_values
from ft.files import digest
from ft.models.folder import config_values, folder_problems, known_folder, module_names
from ft.models.identity import model_fingerprint
from ft.models.limits import HEAD, lora_problems, position_notices, position_problems, target_problems
from ft.recipe import Recipe, Stage, steps
from ft.recipe.batch import A_DEVICE, ACCUMULATED
from ft.recipe.job import Job
from ft.recipe.types import reference
from ft.result import Result, State, read_stats
from ft.results.stop_rule import Stop, find_stop


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its place and its state.

    key          everything that decides the result, as JSON; `fingerprint` is its hash
    why          why it would run, in words; "" when done
    rows_key     names the prepared rows; None for kinds that prepare none
    """

    stage: Stage
    folder: Path
    fingerprint: str
    key: Mapping[str, Any]
    state: State
    why: str
    rows_key: RowsKey | None = None
    prepared: Mapping[str, Any] | None = None  # stats of the prepared rows, when they are there
    inputs: Mapping[str, Path] = field(default_factory=dict)
    init: Path | None = None
    processes: int = 1  # the stage is planned for

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def result(self) -> Result:
        """The folder as it is now."""
        return Result(self.folder)

    @property
    def done(self) -> Mapping[str, Any]:
        return self.result.done

    @property
    def batch(self) -> int | None:
        """Rows per optimizer step over all processes; None for a kind that does not train."""
        train = self.stage.complete("train")
        if self.stage.global_batch or not train:
            return self.stage.global_batch
        return int(train[A_DEVICE] * train[ACCUMULATED] * self.processes)

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None until its rows are prepared, where they decide it."""
        train = self.stage.complete("train")
        if train.get("max_steps", -1) > 0:
            return int(train["max_steps"])
        if not self.prepared or not self.batch or train["dataloader_drop_last"]:
            return None
        return steps(self.prepared["train"]["trainer_rows"], train["num_train_epochs"], self.batch)


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    runs: Path
    stages: tuple[PlannedStage, ...]
    processes: int = 1  # that a stage which trains runs on
    not_needed: Mapping[str, str] = field(default_factory=dict)  # stage of a later round → why it is not made
    notices: tuple[str, ...] = ()  # of models, for people

    def stage(self, name: str) -> PlannedStage:
        """By its name; one that rounds make, by its name without a number, is that of the last round."""
        rounds = next((one for one in self.recipe.rounds if name in one.names), None)
        if rounds:
            name = next(stage for stage in reversed(rounds.stages(name)) if stage not in self.not_needed)
        if name in self.not_needed:
            raise fail(
                str(self.recipe.file), f"'{name}' is not needed: {self.not_needed[name]}", "Name an earlier one."
            )
        planned = next((p for p in self.stages if p.name == name), None)
        if planned is None:
            names = ", ".join(p.name for p in self.stages)
            raise fail(str(self.recipe.file), f"no stage '{name}'", f"There are: {names}.")
        return planned

    def job(self, planned: PlannedStage) -> Job:
        """What the stage's own process is given."""
        stage = planned.stage
        files = {
            str(values[name]): planned.key[block][name]
            for block, values in stage.blocks.items()
            for name in stage.kind.blocks[block].files
            if name in values
        }
        return Job(
            name=stage.name,
            kind=stage.kind_name,
            fingerprint=planned.fingerprint,
            folder=planned.folder.absolute(),
            seed=self.recipe.seed,
            where=stage.where,
            model=self.recipe.model_of(stage),
            init=planned.init.absolute() if planned.init else None,
            inputs={name: folder.absolute() for name, folder in planned.inputs.items()},
            rows=rows_folder(self.runs, planned.rows_key).absolute() if planned.rows_key else None,
            data=tuple(self._resolved(planned, "data")),
            eval_data=tuple(self._resolved(planned, "eval_data")),
            blocks=stage.blocks,
            files=files,
            template=planned.key.get("chat_template"),
            require=stage.require,
            global_batch=stage.global_batch,
            processes=self.processes if stage.kind.trains else 1,
            engine=self.recipe.engine,
        )

    def sources(self, planned: PlannedStage, name: Literal["data", "eval_data"]) -> list[Source]:
        """The stage's sources, which read those bytes alone that the plan has hashed."""
        return [Source(**source) for source in self._resolved(planned, name)]

    def _resolved(self, planned: PlannedStage, name: str) -> list[dict[str, Any]]:
        sources = planned.stage.data if name == "data" else planned.stage.eval_data
        return [self._resolve(source, key) for source, key in zip(sources, planned.key.get(name, ()), strict=True)]

    def tokenizer_folder(self, planned: PlannedStage) -> Path | None:
        """The nearest finished stage up the chain, or None: the recipe's model. Tokenizers travel down unchanged but
        for kinds that make one, so rows can be prepared before the models between are trained. Raises UserError where
        the one that makes it has not."""
        stage = planned.stage
        while stage.init and (stage is planned.stage or not stage.kind.makes_tokenizer):
            parent = self.stage(stage.init)
            if parent.done:
                return parent.folder
            stage = parent.stage
        if stage is not planned.stage and stage.kind.makes_tokenizer:
            what = f"'{planned.name}' takes its tokenizer from '{stage.name}', which is not made"
            raise fail(planned.stage.where, what, f"Make it: ft run {self.recipe.argument} --to {stage.name}")
        return None

    def preparable(self, planned: PlannedStage) -> bool:
        """Whether the stage's rows can be prepared now: its tokenizer is there, and so are rows of stages above."""
        sources = [reference(source["path"]) for source in (*planned.stage.data, *planned.stage.eval_data)]
        if any(name and not self.stage(name).done for name in sources):
            return False
        try:
            self.tokenizer_folder(planned)
        except UserError:
            return False
        return planned.rows_key is not None

    def _resolve(self, source: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any]:
        """A source with `$stage` replaced by the rows that stage left, and the hashes that are in its key."""
        name = reference(source["path"])
        if name:
            return {**source, "path": str((self.stage(name).folder / artifacts.ROWS).absolute())}
        return {**source, "sha256": [sha256 for _, sha256 in key.get("files", ())]}


def plan(recipe: Recipe, runs: Path, processes: int = 1) -> Plan:
    """Every stage with folder and state. Reads files' hashes (remembered), never rows. Raises UserError."""
    _adapters_fit(recipe)
    _models_are_whole(recipe)
    notices = _models_can(recipe)
    planned: dict[str, PlannedStage] = {}
    stops: list[Stop] = []
    for stage in recipe.stages:
        if any(stage.name in stop.not_needed for stop in stops):
            continue
        for stop in stops:
            stage = stop.redirect(stage)
        planned[stage.name] = _plan_stage(stage, recipe, runs, planned, processes)
        new_stops = [
            find_stop(rounds, stage.name, lambda name: planned[name].result.numbers) for rounds in recipe.rounds
        ]
        stops += [stop for stop in new_stops if stop]
    needed = replace(recipe, stages=tuple(one.stage for one in planned.values()))
    not_needed = {name: stop.reason for stop in stops for name in stop.not_needed}
    return Plan(needed, runs, tuple(planned.values()), processes, not_needed, notices)


def _plan_stage(
    stage: Stage, recipe: Recipe, runs: Path, above: Mapping[str, PlannedStage], processes: int
) -> PlannedStage:
    hashes = artifacts.hash_cache(runs)
    key = _key(stage, recipe, above, hashes)
    fingerprint = digest(key)
    folder = _finished_elsewhere(runs, stage.name, fingerprint) or runs / recipe.name / f"{stage.name}-{fingerprint}"
    state = Result(folder).state
    rows_key = _rows_key(stage, recipe, key, above) if stage.kind.rows else None
    prepared = read_stats(rows_folder(runs, rows_key, of_result=state == "done")) if rows_key else None
    return PlannedStage(
        stage=stage,
        folder=folder,
        fingerprint=fingerprint,
        key=key,
        state=state,
        why="" if state == "done" else _why(Result(folder), key, stage),
        rows_key=rows_key,
        prepared=prepared or None,
        inputs={name: above[ref].folder for name, ref in stage.inputs.items()},
        init=above[stage.init].folder if stage.init else None,
        processes=processes,
    )


def _key(stage: Stage, recipe: Recipe, above: Mapping[str, PlannedStage], hashes: Path) -> dict[str, Any]:
    """What decides the stage's result. Parents enter by their fingerprint, files by content, never by path."""
    key: dict[str, Any] = {"kind": stage.kind_name, "seed": recipe.seed}
    model = recipe.model_of(stage)
    if stage.init:
        key["init"] = above[stage.init].fingerprint
    elif stage.kind.init and model:
        key["model"] = model_fingerprint(model, hashes)
    if recipe.chat_template:
        key["chat_template"] = template(recipe.chat_template)
    if stage.inputs:
        key["inputs"] = {name: above[ref].fingerprint for name, ref in stage.inputs.items()}
    for name, sources in (("data", stage.data), ("eval_data", stage.eval_data)):
        if sources:
            key[name] = [_source_key(source, above, hashes) for source in sources]
    for block, values in stage.blocks.items():
        key[block] = {k: v for k, v in values.items() if _decides(stage, block, k)}
        files = {k: file_hash(Path(values[k]), hashes) for k in stage.kind.blocks[block].files if k in values}
        key[block] |= files
    if stage.global_batch:
        key["global_batch"] = stage.global_batch
        if not stage.kind.loss_over_batch:  # rows at once on one GPU are then a matter of memory alone
            del key["train"][A_DEVICE]
    if model and model.dtype:
        key["dtype"] = model.dtype
    if model and model.attention and not stage.init:
        key["attention"] = model.attention
    if model and model.rope and not stage.init:
        key["rope"] = model.rope
    return key


def _decides(stage: Stage, block: str, key: str) -> bool:
    """When the best checkpoint wins, what is saved and judged, and when, decides which weights are left; so do rows
    judged at once, by the rounding of sums."""
    chosen_by = ("eval_", "save_", "per_device_eval_batch_size")
    chooses = stage.blocks[block].get("load_best_model_at_end") and key.startswith(chosen_by)
    return bool(chooses) or stage.kind.affects_result(block, key)


def _source_key(source: Mapping[str, Any], above: Mapping[str, PlannedStage], hashes: Path) -> dict[str, Any]:
    name = reference(source["path"])
    if name:
        return {**source, "path": above[name].fingerprint}
    return source_fingerprint(Source(**source), hashes)


def _rows_key(stage: Stage, recipe: Recipe, key: Mapping[str, Any], above: Mapping[str, PlannedStage]) -> RowsKey:
    """Prepared rows depend on sources, tokenizer, template and budget, and not on the model's weights."""
    train = stage.blocks["train"]
    return {
        "data": key["data"],
        "eval_data": key.get("eval_data", []),
        "rows": dict(stage.blocks.get("rows", {})),
        "max_length": train["max_length"],
        "packing": stage.complete("train")["packing_strategy"] if train.get("packing") else None,
        "tokenizer": _tokenizer(stage, key, above),
        "chat_template": key.get("chat_template"),
        "seed": recipe.seed,
        # other pairs are refused where every token of an answer is trained than where one score is
        **({"scored": True} if "reward_model" in stage.kind.leaves else {}),
        **({"labelled answers": True} if stage.kind.rows == "labelled answers" else {}),
        **({} if (family := _family(recipe, stage)) is CAUSAL else {"family": family.name}),
    }


def _family(recipe: Recipe, stage: Stage) -> Family:
    """The family of the stage's chain, as far as the files here tell."""
    model = recipe.model_of(stage)
    folder = known_folder(model)
    config = config_values(folder) if folder else {}
    return family_of_values({**config, "attention_pattern": model.attention} if model and model.attention else config)


def _tokenizer(stage: Stage, key: Mapping[str, Any], above: Mapping[str, PlannedStage]) -> Any:
    """The tokenizer travels down the chain unchanged: the last stage that makes one names it, or the chain's model."""
    made_by = ""
    while stage.init:
        parent = above[stage.init]
        stage, key, made_by = parent.stage, parent.key, parent.fingerprint
        if stage.kind.makes_tokenizer:
            return made_by
    model = key.get("model")
    return model.get("tokenizer", model) if model else made_by


def _finished_elsewhere(runs: Path, stage: str, fingerprint: str) -> Path | None:
    folders = sorted(runs.glob(f"*/{stage}-{fingerprint}"))
    return next((folder for folder in folders if Result(folder).state == "done"), None)


NEW = "not run yet"


def _why(result: Result, key: Mapping[str, Any], stage: Stage) -> str:
    folder = result.folder
    inputs = {**({"init": stage.init} if stage.init else {}), **{f"inputs.{k}": v for k, v in stage.inputs.items()}}
    if result.state == "unfinished":
        reason = f"{artifacts.DONE} is broken" if artifacts.DONE in result.damage else "was interrupted"
        return f"{reason}; continues"
    if any(folder.parent.glob(f"{folder.name}.old-*")):
        return "set aside by --force"
    others = [Result(file.parent) for file in folder.parent.glob(f"{result.stage}-*/{artifacts.KEY}")]
    earlier = [other for other in others if other.stage == result.stage and other.key]
    if not earlier:
        return NEW
    latest = max(earlier, key=lambda other: (other.folder / artifacts.KEY).stat().st_mtime)
    changed = list_changes(latest.key, key)[:4]
    return ", ".join(f"its input {inputs[name]} changed" if (name := c.split()[0]) in inputs else c for c in changed)


def differences(before: object, after: object, prefix: str = "") -> list[tuple[str, object, object]]:
    """(key, before, after) of each value that differs, keys of mappings joined by dots; lists are one value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys([*before, *after])
        pairs = [(before.get(k), after.get(k), f"{prefix}.{k}" if prefix else k) for k in keys]
        return [change for one, other, key in pairs for change in differences(one, other, key)]
    return [] if before == after else [(prefix, before, after)]


def list_changes(before: object, after: object) -> list[str]:
    """ "train.beta changed (0.1 → 0.2)" for each key that differs; hashes and long values are only named."""
    return [_change(*change) for change in differences(before, after)]


def _change(key: str, before: object, after: object) -> str:
    short = all(isinstance(v, (int, float, bool, str, type(None))) and len(str(v)) <= 12 for v in (before, after))
    values = f" ({before} → {after})" if short and "." in key and not key.startswith(("data", "model")) else ""
    return f"{key} changed{values}"


def _models_are_whole(recipe: Recipe) -> None:
    models = {recipe.model, *(stage.model for stage in recipe.stages)}
    problems = Problems()
    for folder in sorted({model.folder for model in models if model and model.folder}):
        problems += folder_problems(folder)
    problems.raise_any()


def _models_can(recipe: Recipe) -> tuple[str, ...]:
    """What the files of a model tell of stages that train it, as far as they are on this machine: adapters and lengths
    that cannot be are refused; the notices are of those that may not be meant."""
    problems = Problems()
    notices: list[str] = []
    for stage in recipe.stages:
        folder = known_folder(recipe.model_of(stage)) if stage.kind.init else None
        config, where = config_values(folder) if folder else {}, f"{stage.where} '{stage.name}'"
        train = stage.blocks.get("train", {})
        problems += _family(recipe, stage).problems(where, stage.kind.families, train)
        if not stage.kind.trains:
            continue
        lora = stage.blocks.get("lora", {})
        if lora and "model" in stage.kind.leaves:
            problems += lora_problems(where, lora, config)
        targets = lora.get("target_modules")
        modules = module_names(folder) if folder and targets else set()
        if modules and (isinstance(targets, list) or "model" in modules):  # else a file's names lack the first part
            problems += target_problems(where, targets, modules | {HEAD})
        if (model := recipe.model_of(stage)) and model.rope:
            config = {**config, "rope_parameters": model.rope}
        if isinstance(length := train.get("max_length"), int):
            problems += position_problems(where, length, config)
            notices += position_notices(where, length, config)
    problems.raise_any()
    return tuple(notices)


def _adapters_fit(recipe: Recipe) -> None:
    """A stage that starts from an adapter trains that adapter on: its shape and its base must be the parent's."""
    problems = Problems()
    for stage in recipe.stages:
        if "train" in stage.blocks and "quantization" in stage.blocks and "lora" not in stage.blocks:
            fix = "Write `lora: {…}`, or remove `quantization:`."
            problems.add(stage.where, f"'{stage.name}' trains quantised weights, which have no gradient", fix)
        if "train" not in stage.blocks or not stage.init:
            continue
        parent = recipe.stage(stage.init)
        adapter, lora = parent.blocks.get("lora"), stage.blocks.get("lora")
        if adapter is None:
            continue
        where, fix = stage.where, "Write the same block."
        if lora is None:
            problems.add(where, f"'${stage.init}' is an adapter, and '{stage.name}' has no `lora:`", fix)
        elif _shape(lora) != _shape(adapter):
            problems.add(where, f"lora differs from '${stage.init}'s, whose adapter it trains on", fix)
        if stage.blocks.get("quantization") != parent.blocks.get("quantization"):
            fix = "An adapter fits the base it was trained on: write the same block."
            problems.add(where, f"quantization differs from '${stage.init}'s", fix)
    problems.raise_any()


def _shape(lora: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in lora.items() if key != "lora_dropout"}
