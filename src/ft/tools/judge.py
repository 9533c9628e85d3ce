"""`ft judge A B`: two models, wherever they are, compared on a file of prompts; the stage `judge` without a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.data.sources.read import Source, file_hash
from ft.errors import fail
from ft.evaluation.judge_prompt import JudgePrompt
from ft.files import digest
from ft.models.identity import model_fingerprint, result_fingerprint
from ft.models.lineage import is_reward
from ft.recipe import ModelSource, Recipe
from ft.recipe.find import is_recipe, recipe_file
from ft.recipe.job import Job
from ft.result import Result
from ft.results.locks import hold_result
from ft.results.store import plan
from ft.results.variants import finished_stage
from ft.rewards import REWARDS
from ft.run.stage import make_stage
from ft.tools.chat import model_at, newest_model

RECIPE_MODEL = "model"
"""RECIPE:model is the model the recipe starts from."""


@dataclass(frozen=True)
class JudgeChoice:
    """`--by`: a function of ft.rewards, `reward:MODEL`, `model:MODEL`, or `server:MODEL` under an address."""

    by: str
    prompt: Path | None = None
    base_url: str | None = None
    key_env: str | None = None

    def blocks(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the recipe's `judge:` and `backend:` would say. Raises UserError."""
        kind, _, model = self.by.partition(":")
        judge: dict[str, Any] = {}
        backend: dict[str, Any] = {}
        if self.by in REWARDS:
            judge = {"kind": "function", "function": self.by}
        elif kind in ("reward", "model") and model:
            judge = {"kind": kind}
        elif kind == "server" and model:
            judge = {"kind": "server"}
            backend = {"kind": "server", "model": model, "base_url": self.base_url, "key_env": self.key_env}
        else:
            fix = f"There are: {', '.join(REWARDS)}, reward:MODEL, model:MODEL and server:MODEL."
            raise fail("--by", f"unknown judge '{self.by}'", fix)
        if self.prompt:
            judge["prompt"] = str(self.prompt)
        return judge, {name: value for name, value in backend.items() if value is not None}


def find_model(name: str, runs: Path, read: Callable[[Path], Recipe], tell: Callable[[str], None]) -> Path:
    """The folder of a model: one given, a Hub id's (fetched), or a recipe's stage, RECIPE or RECIPE:STAGE.

    `read` makes a Recipe of a file. RECIPE alone is its newest model. `tell` is told when a model's settings are not
    its recipe's.
    """
    file, colon, stage = name.rpartition(":")
    if not (colon and is_recipe(file)):
        model = newest_model(plan(read(recipe_file(name)), runs), tell) if is_recipe(name) else model_at(name)
        return _fetch(model.model) if model.folder is None and model.model else Path(model.folder or name)
    recipe: Recipe = read(recipe_file(file))
    if stage == RECIPE_MODEL and recipe.model:
        return _fetch(recipe.model)
    planned_run = plan(recipe, runs)
    if not planned_run.stage(stage).stage.kind.leaves_weights:
        raise fail(name, f"'{stage}' leaves no model", "Name a stage that trains one.")
    return finished_stage(planned_run, stage, tell)


def _fetch(model: ModelSource) -> Path:
    """The folder itself, or a copy of what the Hub has under the name: weights, configs and tokenizer."""
    if model.folder:
        return model.folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        text = str(error).splitlines()[0]
        raise fail(model.path, f"the model cannot be fetched: {text}", "Check the name and HF_TOKEN.") from error


@dataclass(frozen=True)
class JudgeRequest:
    """What `ft judge` was asked for; `options` are further keys of the block `judge:`."""

    model: Path
    other: Path
    prompts: Source
    choice: JudgeChoice
    judge: Path | None = None
    options: Mapping[str, Any] | None = None
    seed: int = 1
    chat_template: str | None = None


def compare(request: JudgeRequest, runs: Path) -> Path:
    """Make the comparison, or find it made; the folder of its result."""
    judge, backend = request.choice.blocks()
    blocks = {"judge": {**judge, **(request.options or {})}} | ({"backend": backend} if backend else {})
    inputs = {"other": request.other.absolute()}
    if request.judge:
        inputs["scorer" if judge["kind"] == "reward" else "judge"] = request.judge.absolute()
    _check(blocks, request)
    fingerprint = digest(_key(request, blocks, inputs, artifacts.hash_cache(runs)))
    folder = (runs / "judged" / f"judge-{fingerprint}").absolute()
    if Result(folder).state != "done":
        folder.mkdir(parents=True, exist_ok=True)
        job = Job("judge", "judge", fingerprint, folder, request.seed, where="ft judge", inputs=inputs, blocks=blocks)
        changes: dict[str, Any] = {"init": request.model.absolute(), "data": (_source(request.prompts),)}
        with hold_result(runs, folder):
            make_stage(replace(job, **changes, template=request.chat_template).write())
    return folder


def _check(blocks: Mapping[str, Any], request: JudgeRequest) -> None:
    """Raises UserError for what the stage's process would refuse."""
    from ft.models.generation.backends import BackendOptions
    from ft.stages.judge import JudgeOptions

    try:
        JudgeOptions(**blocks["judge"])
        BackendOptions(**blocks.get("backend", {}))
    except ValueError as error:
        text = str(error)
        raise fail("ft judge", text, "See ft judge --help.") from error
    if request.choice.prompt:
        JudgePrompt.read(request.choice.prompt)
    for name, folder in (("A", request.model), ("B", request.other)):
        if is_reward(folder):
            raise fail(f"{name}, {folder}", "this is a reward model, which scores and does not answer", "Name another.")


def _key(request: JudgeRequest, blocks: Mapping[str, Any], inputs: Mapping[str, Path], hashes: Path) -> dict[str, Any]:
    """What decides the result: models and prompts by their bytes, never by their paths."""
    files = {"prompt": file_hash(request.choice.prompt, hashes)} if request.choice.prompt else {}
    server = {"model": blocks["backend"]["model"]} if "backend" in blocks else {}
    return {
        "kind": "judge",
        "seed": request.seed,
        "models": [_model_key(folder, hashes) for folder in (request.model, *inputs.values())],
        "data": {**_source(request.prompts), "path": file_hash(Path(request.prompts.path), hashes)},
        "judge": {**blocks["judge"], **files},
        "server": server,
        "chat_template": request.chat_template,
    }


def _model_key(folder: Path, hashes: Path) -> str | dict[str, Any]:
    return result_fingerprint(folder) or model_fingerprint(ModelSource(str(folder)), hashes)


def _source(prompts: Source) -> dict[str, Any]:
    values = {"path": prompts.path, "format": prompts.format, "columns": prompts.columns}
    return {name: value for name, value in values.items() if value}
