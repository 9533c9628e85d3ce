"""Replies of a model or a server to questions in words, each asked once and kept as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ft.data.formats.messages import BadRow, Message
from ft.encode.conversation import Renderer
from ft.files import atomic, digest
from ft.models.generation.backends import WorkerRequest, WorkerSpec, answer_requests, load_worker
from ft.models.generation.executor import Entry, Loader
from ft.models.generation.resumable import compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of


class StoredReplies:
    """What `spec` replies. The file is named by `decided` (who replies, to which prompt) and the sampling, so a result
    begins with what others of the same name have been told."""

    def __init__(self, spec: WorkerSpec, decided: Sequence[object], sampling: Sampling, folder: Path, name: str):
        self.spec, self.sampling, self.name = spec, sampling, name
        self.file = folder / f"replies-{digest([*decided, asdict(sampling)])}.jsonl"
        self.worker = Loader(load_worker, spec)

    def replies(self, prompts: Sequence[Sequence[Message]]) -> list[Entry | BadRow]:
        """Of each prompt, in order; why it cannot be asked where the model's template refuses it."""
        renderer = self._renderer()
        asked: list[WorkerRequest | BadRow] = []
        for messages in prompts:
            try:
                ids = renderer.prompt(messages) if renderer else []
                asked.append(WorkerRequest(words_key(messages), messages, ids))
            except BadRow as bad:
                asked.append(bad)
        entries = self._entries([one for one in asked if isinstance(one, WorkerRequest)])
        return [one if isinstance(one, BadRow) else entries[one.key] for one in asked]

    def _renderer(self) -> Renderer | None:
        """None for a server, which renders by itself."""
        if self.spec.options.kind == "server":
            return None
        return Renderer(tokenizer_of(self.spec.model, self.spec.folder, self.spec.chat_template))

    def _entries(self, asked: Sequence[WorkerRequest]) -> Mapping[str, Entry]:
        """Key → reply. Questions of about one length are asked side by side, in an order that their words decide."""
        by_key = {one.key: one for one in asked}
        ordered = sorted(by_key.values(), key=lambda one: (-len(one.prompt_ids), one.key))
        copy_earlier(self.file)
        work, batch_size = partial(answer_requests, sampling=self.sampling), self.spec.requests_per_batch
        return compute_entries(ordered, self.worker, work, self.file, batch_size, self.name, accepts_failures=True)


def words_key(messages: Sequence[Message]) -> str:
    """Of a question by its words, so that the same is never asked twice."""
    return digest([dict(message) for message in messages], 20)


def copy_earlier(file: Path) -> None:
    """Begin a file that is named by what decides its lines with those that another result has, if there is one."""
    if file.exists():
        return
    earlier = [one for one in file.parent.parent.parent.glob(f"*/*/{file.name}") if one.parent != file.parent]
    if earlier:
        with atomic(file) as beside:
            shutil.copyfile(max(earlier, key=lambda one: one.stat().st_size), beside)
