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
from ft.evaluation.win_rate import PairOutcome, by_both_orders, by_scores
from ft.files import atomic, digest
from ft.models.generation.backends import Worker, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.resumable import Entry, Tick, compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of
from ft.rl.scoring import AnswerScorer


@dataclass(frozen=True)
class AnswerPair:
    """The answers of both models to one prompt."""

    answer: Sample
    other_answer: Sample

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.answer.text), len(self.other_answer.text)


@dataclass(frozen=True)
class JudgedPair:
    """What became of a pair, and what the judge said, for verdicts.jsonl."""

    result: PairOutcome
    words: Mapping[str, Any]


class Judge(Protocol):
    def compare(self, pairs: Sequence[AnswerPair]) -> list[JudgedPair]:
        """Of each pair, in order."""
        ...


class ByScore:
    """The answer with the higher score wins; order plays no part. `scorer` holds one reward model or one function."""

    def __init__(self, scorer: AnswerScorer, tie: float):
        self.scorer, self.tie = scorer, tie

    def compare(self, pairs: Sequence[AnswerPair]) -> list[JudgedPair]:
        scores_by_key = self.scorer.scores(
            [sample for pair in pairs for sample in (pair.answer, pair.other_answer)], "scores"
        )
        judged_pairs = []
        for pair in pairs:
            scores = [
                next(iter(scores_by_key[sample.key].parts.values())) for sample in (pair.answer, pair.other_answer)
            ]
            words = {"scores": dict(zip(("answer", "other_answer"), scores, strict=True))}
            if scores[0] is None or scores[1] is None:
                judged_pairs.append(JudgedPair(PairOutcome(None, "unscored", pair.lengths), words))
            else:
                judged_pairs.append(JudgedPair(by_scores(scores[0], scores[1], pair.lengths, self.tie), words))
        return judged_pairs


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
        judge: Mapping[str, Any],
        prompt: JudgePrompt,
        sampling: Sampling,
        folder: Path,
        name: str,
    ):
        self.spec = spec
        self.prompt, self.sampling, self.name = prompt, sampling, name
        self.file = folder / f"replies-{digest([judge, prompt.hash, asdict(sampling)])}.jsonl"
        self._worker: Worker | None = None

    def compare(self, pairs: Sequence[AnswerPair]) -> list[JudgedPair]:
        tokenizer = None if self._asks_a_server else tokenizer_of(self.spec.model, self.spec.folder, None)
        renderer = None if tokenizer is None else Renderer(tokenizer)
        questions = [self._questions(pair, renderer) for pair in pairs]
        replies = self._replies([one for orders in questions if not isinstance(orders, BadRow) for one in orders])
        return [self._judge_pair(pair, orders, replies) for pair, orders in zip(pairs, questions, strict=True)]

    def _questions(self, pair: AnswerPair, renderer: Renderer | None) -> tuple[_Question, _Question] | BadRow:
        """Ours first, then the other first; or why the judge cannot be asked."""
        prompt, texts = pair.answer.prompt, (pair.answer.text, pair.other_answer.text)
        questions = []
        try:
            for first, second in (texts, texts[::-1]):
                messages = self.prompt.messages(prompt.messages, prompt.columns, first, second)
                questions.append(_Question(messages, renderer.prompt(messages) if renderer else []))
        except BadRow as bad:
            return bad
        return questions[0], questions[1]

    def _replies(self, questions: Sequence[_Question]) -> dict[str, Entry]:
        """Key → reply. Questions of about one length are asked side by side, the same ones whichever model is ours."""

        def work(batch: Sequence[_Question], tick: Tick) -> Iterator[tuple[str, Entry]]:
            batched = requests((one.key, one.messages, one.ids) for one in batch)
            return answers_by_key(self._loaded_worker(), batched, self.sampling, tick)

        by_key = {one.key: one for one in questions}
        ordered = sorted(by_key.values(), key=lambda one: (-len(one.ids), one.key))
        copy_earlier(self.file)
        return compute_entries(ordered, work, self.file, self.spec.requests_per_batch, f"{self.name}: verdicts")

    def _judge_pair(
        self, pair: AnswerPair, orders: tuple[_Question, _Question] | BadRow, replies: Mapping[str, Entry]
    ) -> JudgedPair:
        if isinstance(orders, BadRow):
            return JudgedPair(PairOutcome(None, "unscored", pair.lengths), {"refused": str(orders)})
        pair_replies = [replies[one.key] for one in orders]
        verdicts = [self._verdict(reply) for reply in pair_replies]
        words = [
            {"first": first, "reply": reply["text"], "ended": reply["ended"], "verdict": verdict}
            | ({"failed": reply["failed"]} if "failed" in reply else {})
            for first, reply, verdict in zip(("answer", "other_answer"), pair_replies, verdicts, strict=True)
        ]
        return JudgedPair(by_both_orders(verdicts[0], verdicts[1], pair.lengths), {"asked": words})

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


def copy_earlier(file: Path) -> None:
    """Begin a file that is named by what decides its lines with those that another result has, if there is one."""
    if file.exists():
        return
    earlier = [one for one in file.parent.parent.parent.glob(f"*/*/{file.name}") if one.parent != file.parent]
    if earlier:
        with atomic(file) as beside:
            shutil.copyfile(max(earlier, key=lambda one: one.stat().st_size), beside)
