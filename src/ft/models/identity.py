"""What a model is, whatever its folder is called and wherever it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ft import artifacts
from ft.data.sources.bytes import CHANGED
from ft.data.sources.read import file_hash
from ft.errors import fail
from ft.files import digest, read_mapping
from ft.models.both_versions import ORIGINAL, identifying
from ft.recipe import ModelSource
from ft.recipe.job import Job
from ft.result import Result

TOKENIZER_FILES = ("tokenizer", "chat_template", "special_tokens")


def model_fingerprint(source: ModelSource, cache: Path | None) -> dict[str, Any]:
    """The bytes of a folder's weights and tokenizer, or a Hub id at a revision: what enters a result's key.

    Hashes of files are remembered in the JSON file `cache`.
    """
    folder = source.folder
    if folder is None:
        return {"path": source.path, "revision": source.revision}
    files = sorted(folder.iterdir())
    weights = [p for p in files if p.suffix == ".safetensors" or p.name.endswith(artifacts.CONFIG)]
    tokenizer = [p for p in files if p.name.startswith(TOKENIZER_FILES)]
    return {"weights": _joint_hash(weights, cache), "tokenizer": _joint_hash(tokenizer, cache)}


def check_model_bytes(job: Job) -> None:
    """Raise UserError where the folder that a stage starts from no longer holds what the plan has hashed, by which the
    result is named. Called before and after the work: a file that did not change is not read again."""
    planned = read_mapping(job.folder / artifacts.KEY).get("model")
    if planned and job.model:
        refuse_changed(job.model, planned, hashes(job))


def refuse_changed(model: ModelSource, planned: Mapping[str, Any], cache: Path) -> None:
    """Raise UserError where a folder's bytes are no longer those that the plan has hashed, or those of its parts that
    `planned` has."""
    if model.folder and {**model_fingerprint(model, cache), **planned} != model_fingerprint(model, cache):
        raise fail(model.path, *CHANGED)


def result_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the finished stage in a folder, None where there is none."""
    return Result(folder).done.get("fingerprint")


def model_identity(model: ModelSource | Path, cache: Path | None) -> str:
    """A model in one word, for rows and verdicts: the fingerprint of the stage that made it, a Hub id with its
    revision, or the hash of a folder's bytes."""
    source = ModelSource(str(model)) if isinstance(model, Path) else model
    if source.folder is None:
        return source.path if source.revision is None else f"{source.path}@{source.revision}"
    return result_fingerprint(source.folder) or digest(model_fingerprint(source, cache))


def policy_identity(job: Job) -> str:
    """The identity of the model that a stage starts from."""
    policy = job.init or job.model
    assert policy is not None
    return model_identity(policy, hashes(job))


def hashes(job: Job) -> Path:
    """Where the hashes of files are remembered for a stage: weights are read once."""
    return artifacts.hash_cache(artifacts.runs_folder(job.folder))


def _joint_hash(files: Iterable[Path], cache: Path | None) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {_hash(file, cache)}\n".encode())
    return whole.hexdigest()[:16]


def _hash(file: Path, cache: Path | None) -> str:
    digest_of_bytes = file_hash(file, cache)
    if file.name in ORIGINAL:
        return hashlib.sha256(identifying(file.name, file.read_bytes())).hexdigest()
    return digest_of_bytes
