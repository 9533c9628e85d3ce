"""Replies of a model or a server to questions in words, each asked once and kept as it comes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ft.data.formats.messages import BadRow, Message
from ft.encode.conversation import Renderer
from ft.files import atomic, digest
from ft.models.generation.backends import Worker, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.resumable import Entry, Tick, compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of


@dataclass(frozen=True)
class _Request:
    """The key is that of the words, so the same question is never asked twice."""

    messages: Sequence[Message]
    ids: Sequence[int]

    @property
    def key(self) -> str:
        return digest([dict(message) for message in self.messages], 20)


class StoredReplies:
    """What `spec` replies. The file is named by `decided` (who replies, to which prompt) and the sampling, so a result
    begins with what others of the same name have been told."""

    def __init__(self, spec: WorkerSpec, decided: Sequence[object], sampling: Sampling, folder: Path, name: str):
        self.spec, self.sampling, self.name = spec, sampling, name
        self.file = folder / f"replies-{digest([*decided, asdict(sampling)])}.jsonl"
        self._worker: Worker | None = None

    def replies(self, prompts: Sequence[Sequence[Message]]) -> list[Entry | BadRow]:
        """Of each prompt, in order; why it cannot be asked where the model's template refuses it."""
        renderer = self._renderer()
        asked: list[_Request | BadRow] = []
        for messages in prompts:
            try:
                asked.append(_Request(messages, renderer.prompt(messages) if renderer else []))
            except BadRow as bad:
                asked.append(bad)
        entries = self._entries([one for one in asked if isinstance(one, _Request)])
        return [one if isinstance(one, BadRow) else entries[one.key] for one in asked]

    def _renderer(self) -> Renderer | None:
        """None for a server, which renders by itself."""
        if self.spec.options.kind == "server":
            return None
        return Renderer(tokenizer_of(self.spec.model, self.spec.folder, self.spec.chat_template))

    def _entries(self, asked: Sequence[_Request]) -> dict[str, Entry]:
        """Key → reply. Questions of about one length are asked side by side, in an order that their words decide."""

        def work(batch: Sequence[_Request], tick: Tick) -> Iterator[tuple[str, Entry]]:
            if self._worker is None:
                self._worker = load_worker(self.spec)
            batched = requests((one.key, one.messages, one.ids) for one in batch)
            return answers_by_key(self._worker, batched, self.sampling, tick)

        by_key = {one.key: one for one in asked}
        ordered = sorted(by_key.values(), key=lambda one: (-len(one.ids), one.key))
        copy_earlier(self.file)
        return compute_entries(ordered, work, self.file, self.spec.requests_per_batch, self.name)


def copy_earlier(file: Path) -> None:
    """Begin a file that is named by what decides its lines with those that another result has, if there is one."""
    if file.exists():
        return
    earlier = [one for one in file.parent.parent.parent.glob(f"*/*/{file.name}") if one.parent != file.parent]
    if earlier:
        with atomic(file) as beside:
            shutil.copyfile(max(earlier, key=lambda one: one.stat().st_size), beside)
