"""Who replies in words when a stage asks: a stage of the recipe, a model, a server, or a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ft.data.formats.messages import BadRow, Message
from ft.errors import fail
from ft.evaluation.prompt_file import PromptFile
from ft.hub import local_path
from ft.models.generation.backends import BackendOptions, WorkerSpec
from ft.models.generation.executor import Entry
from ft.models.generation.replies import StoredReplies
from ft.models.generation.sampling import Sampling
from ft.models.identity import hashes, model_identity
from ft.recipe import ModelSource
from ft.recipe.job import Job

Values = Mapping[str, Any]
"""What a prompt's template sees, and all that a program sees."""
Program = Callable[[Values], str]


@dataclass(frozen=True)
class RespondentOptions:
    """Who replies: keys of the blocks `questions:`, `quiz:` and `summaries:`.

    kind          model: the model of `inputs:`, or `model`, a Hub id at `revision`. server: what `backend:` names.
                  program: `program`
    program       program: its name
    prompt        model, server: the file that says what is asked
    reply_tokens  model, server: longest reply, in tokens
    batch_size    model: replies made side by side
    """

    kind: Literal["model", "server", "program"]
    program: str | None = None
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    reply_tokens: int = 1024
    batch_size: int = 64

    def check_respondent(self, programs: Mapping[str, Program], prompt: str) -> None:
        """Raises ValueError where keys contradict each other."""
        if self.kind == "program" and self.program not in programs:
            raise ValueError(f"program is '{self.program}'; there are: {', '.join(programs)}")
        if self.kind != "program" and self.program:
            raise ValueError("program is for kind: program")
        if (self.kind == "program") == bool(self.prompt):
            missing = f"prompt is missing: the file that says what is asked, as {prompt}"
            raise ValueError("prompt is for kind: model or server" if self.prompt else missing)
        if (self.model or self.revision) and self.kind != "model":
            raise ValueError("model and revision are for kind: model")
        if self.model and local_path(self.model) is not None:
            raise ValueError(f"model is '{self.model}'; write a Hub id (owner/name), or a stage under `inputs:`")
        for name in ("reply_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Reply:
    """`text`, or the reason why there is none: failed (the server), refused (the prompt), too_long, cut."""

    text: str
    reason: str = ""
    detail: str = ""


class Respondent(Protocol):
    def replies(self, asked: Sequence[Values]) -> list[Reply]:
        """To each, in order."""
        ...


class ByProgram:
    def __init__(self, program: Program):
        self.program = program

    def replies(self, asked: Sequence[Values]) -> list[Reply]:
        return [Reply(self.program(values)) for values in asked]


class ByModel:
    """A model or a server, asked by a prompt file."""

    def __init__(self, stored: StoredReplies, prompt: PromptFile):
        self.stored, self.prompt = stored, prompt

    def replies(self, asked: Sequence[Values]) -> list[Reply]:
        rendered = [self._render(values) for values in asked]
        entries = iter(self.stored.replies([one for one in rendered if not isinstance(one, BadRow)]))
        return [_reply(one if isinstance(one, BadRow) else next(entries)) for one in rendered]

    def _render(self, values: Values) -> list[Message] | BadRow:
        try:
            return self.prompt.render(values)
        except BadRow as bad:
            return bad


def _reply(entry: Entry | BadRow) -> Reply:
    if isinstance(entry, BadRow):
        return Reply("", "refused", str(entry))
    if "failed" in entry:
        return Reply("", "failed", str(entry["failed"]))
    if entry["text"] is None:
        return Reply("", "too_long")
    return Reply(entry["text"]) if entry["ended"] else Reply(entry["text"], "cut")


def respondent_of(
    job: Job, options: RespondentOptions, prompt: type[PromptFile], programs: Mapping[str, Program], role: str
) -> tuple[Respondent, dict[str, Any]]:
    """Who replies, and what it is in words. `role` is the name of the input that may be it."""
    if options.kind == "program":
        assert options.program
        return ByProgram(programs[options.program]), {"program": options.program}
    assert options.prompt
    read = prompt.read(Path(options.prompt))
    spec, record = replying_model(job, options.kind, options.model, options.revision, role, options.batch_size)
    stored = stored_replies(job, spec, record, read, options.reply_tokens, "replies")
    return ByModel(stored, read), {**record, "prompt": read.record()}


def stored_replies(
    job: Job, spec: WorkerSpec, record: Mapping[str, Any], prompt: PromptFile, tokens: int, unit: str
) -> StoredReplies:
    sampling = Sampling(tokens, temperature=0.0, seed=job.seed)
    return StoredReplies(spec, [dict(record), prompt.hash], sampling, job.folder, f"{job.name}: {unit}")


def replying_model(
    job: Job, kind: Literal["model", "server"], model: str | None, revision: str | None, role: str, batch_size: int
) -> tuple[WorkerSpec, dict[str, Any]]:
    """The model or server that replies, and what it is called. Raises UserError where none is named, or two."""
    backend = BackendOptions(**job.block("backend"))
    if kind == "server":
        if backend.kind != "server":
            fix = "Write `backend: {kind: server, base_url: …, model: …}`."
            raise fail(job.where, "no server is named", fix)
        return WorkerSpec(backend), {"server": backend.model}
    if backend.kind == "server":
        raise fail(job.where, "a model is to reply, and backend names a server", "Write `kind: server` in the block.")
    folder = job.inputs.get(role)
    if (folder is None) == (model is None):
        raise fail(job.where, "one model is to reply", f"Write `inputs: {{{role}: $stage}}`, or `model: …`, a Hub id.")
    source = ModelSource(model, revision) if model else None
    spec = WorkerSpec(backend, source, folder, None, job.blocks.get("quantization"), batch_size)
    replying = folder or source
    assert replying is not None
    return spec, {"model": model_identity(replying, hashes(job))}
