"""Who says which of two answers is better: a reward model, a function of ft.rewards, or a model that is asked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ft.data.formats.messages import BadRow, Message
from ft.data.prompts import Sample
from ft.encode.conversation import Renderer
from ft.evaluation.judge_prompt import JudgePrompt, Verdict
from ft.evaluation.win_rate import Judged, by_both_orders, by_scores
from ft.files import atomic, digest
from ft.models.generation.backends import Worker, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.resumable import Entry, Tick, compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.load import tokenizer_of
from ft.rl.scoring import AnswerScorer


@dataclass(frozen=True)
class Pair:
    """The answers of both models to one prompt."""

    ours: Sample
    other: Sample

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.ours.text), len(self.other.text)


@dataclass(frozen=True)
class Said:
    """What became of a pair, and what the judge said, for verdicts.jsonl."""

    judged: Judged
    words: Mapping[str, Any]


class Judge(Protocol):
    def says(self, pairs: Sequence[Pair]) -> list[Said]:
        """Of each pair, in order."""
        ...


class ByScore:
    """The answer with the higher score wins; order plays no part. `scorer` holds one reward model or one function."""

    def __init__(self, scorer: AnswerScorer, tie: float):
        self.scorer, self.tie = scorer, tie

    def says(self, pairs: Sequence[Pair]) -> list[Said]:
        found = self.scorer.scores([sample for pair in pairs for sample in (pair.ours, pair.other)], "scores")
        said = []
        for pair in pairs:
            scores = [next(iter(found[sample.key].parts.values())) for sample in (pair.ours, pair.other)]
            words = {"scores": dict(zip(("answer", "other_answer"), scores, strict=True))}
            if scores[0] is None or scores[1] is None:
                said.append(Said(Judged(None, "unscored", pair.lengths), words))
            else:
                said.append(Said(by_scores(scores[0], scores[1], pair.lengths, self.tie), words))
        return said


@dataclass(frozen=True)
class _Question:
    """One order of one pair. The key is that of the words, so the same question is never asked twice."""

    messages: Sequence[Message]
    ids: Sequence[int]

    @property
    def key(self) -> str:
        return digest([dict(message) for message in self.messages], 20)


class ByWords:
    """A model that reads both answers, in both orders, and says which is better; its replies are kept as they come."""

    def __init__(
        self,
        spec: WorkerSpec,
        who: Mapping[str, Any],
        prompt: JudgePrompt,
        sampling: Sampling,
        kept_in: Path,
        name: str,
    ):
        self.spec = spec
        self.prompt, self.sampling, self.name = prompt, sampling, name
        self.file = kept_in / f"replies-{digest([who, prompt.hash, asdict(sampling)])}.jsonl"
        self._worker: Worker | None = None

    def says(self, pairs: Sequence[Pair]) -> list[Said]:
        tokenizer = None if self._asks_a_server else tokenizer_of(self.spec.model, self.spec.folder, None)
        renderer = None if tokenizer is None else Renderer(tokenizer)
        questions = [self._questions(pair, renderer) for pair in pairs]
        replies = self._replies([one for both in questions if not isinstance(both, BadRow) for one in both])
        return [self._said(pair, both, replies) for pair, both in zip(pairs, questions, strict=True)]

    def _questions(self, pair: Pair, renderer: Renderer | None) -> tuple[_Question, _Question] | BadRow:
        """Ours first, then the other first; or why the judge cannot be asked."""
        prompt, texts = pair.ours.prompt, (pair.ours.text, pair.other.text)
        found = []
        try:
            for first, second in (texts, texts[::-1]):
                messages = self.prompt.messages(prompt.messages, prompt.columns, first, second)
                found.append(_Question(messages, renderer.prompt(messages) if renderer else []))
        except BadRow as bad:
            return bad
        return found[0], found[1]

    def _replies(self, questions: Sequence[_Question]) -> dict[str, Entry]:
        """Key → reply. Questions of about one length are asked side by side, the same ones whichever model is ours."""

        def work(batch: Sequence[_Question], tick: Tick) -> Iterator[tuple[str, Entry]]:
            batched = requests((one.key, one.messages, one.ids) for one in batch)
            return answers_by_key(self._loaded_worker(), batched, self.sampling, tick)

        once = {one.key: one for one in questions}
        ordered = sorted(once.values(), key=lambda one: (-len(one.ids), one.key))
        of_earlier(self.file)
        return compute_entries(ordered, work, self.file, self.spec.requests_per_batch, f"{self.name}: verdicts")

    def _said(self, pair: Pair, both: tuple[_Question, _Question] | BadRow, replies: Mapping[str, Entry]) -> Said:
        if isinstance(both, BadRow):
            return Said(Judged(None, "unscored", pair.lengths), {"refused": str(both)})
        told = [replies[one.key] for one in both]
        verdicts = [self._verdict(reply) for reply in told]
        words = [
            {"first": first, "reply": reply["text"], "ended": reply["ended"], "verdict": verdict}
            for first, reply, verdict in zip(("answer", "other_answer"), told, verdicts, strict=True)
        ]
        return Said(by_both_orders(verdicts[0], verdicts[1], pair.lengths), {"asked": words})

    def _verdict(self, reply: Entry) -> Verdict | None:
        """A reply that was cut may have gone on to say something else: it has no verdict."""
        return self.prompt.verdict(reply["text"]) if reply["ended"] and reply["text"] else None

    @property
    def _asks_a_server(self) -> bool:
        return self.spec.options.kind == "server"

    def _loaded_worker(self) -> Worker:
        if self._worker is None:
            self._worker = load_worker(self.spec)
        return self._worker


def of_earlier(file: Path) -> None:
    """Begin a file that is named by what decides its lines with those that another result has, if there is one."""
    if file.exists():
        return
    there = [one for one in file.parent.parent.parent.glob(f"*/*/{file.name}") if one.parent != file.parent]
    if there:
        with atomic(file) as beside:
            shutil.copyfile(max(there, key=lambda one: one.stat().st_size), beside)
