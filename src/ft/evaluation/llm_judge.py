"""Who says which of two answers is better: a reward model, a function of ft.rewards, or a model that is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ft.data.formats.messages import BadRow, Message
from ft.data.prompts import Sample
from ft.evaluation.judge_prompt import JudgePrompt, Verdict
from ft.evaluation.win_rate import PairOutcome, by_both_orders, by_scores
from ft.models.generation.executor import Entry
from ft.models.generation.replies import StoredReplies
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
        answers = [sample for pair in pairs for sample in (pair.answer, pair.other_answer)]
        values = [next(iter(score.parts.values())) for score in self.scorer.scores(answers, "scores")]
        judged_pairs = []
        for pair, *scores in zip(pairs, values[::2], values[1::2], strict=True):
            words = {"scores": dict(zip(("answer", "other_answer"), scores, strict=True))}
            if scores[0] is None or scores[1] is None:
                judged_pairs.append(JudgedPair(PairOutcome(None, "unscored", pair.lengths), words))
            else:
                judged_pairs.append(JudgedPair(by_scores(scores[0], scores[1], pair.lengths, self.tie), words))
        return judged_pairs


class ByWords:
    """A model that reads both answers, in both orders, and says which is better."""

    def __init__(self, stored: StoredReplies, prompt: JudgePrompt):
        self.stored, self.prompt = stored, prompt

    def compare(self, pairs: Sequence[AnswerPair]) -> list[JudgedPair]:
        questions = [self._questions(pair) for pair in pairs]
        prompts = [messages for orders in questions if not isinstance(orders, BadRow) for messages in orders]
        replies = iter(self.stored.replies(prompts))
        return [
            self._judge_pair(pair, orders if isinstance(orders, BadRow) else (next(replies), next(replies)))
            for pair, orders in zip(pairs, questions, strict=True)
        ]

    def _questions(self, pair: AnswerPair) -> tuple[list[Message], list[Message]] | BadRow:
        """Ours first, then the other first; or why the judge cannot be asked."""
        prompt, first, second = pair.answer.prompt, pair.answer.text, pair.other_answer.text
        try:
            return (
                self.prompt.messages(prompt.messages, prompt.columns, first, second),
                self.prompt.messages(prompt.messages, prompt.columns, second, first),
            )
        except BadRow as bad:
            return bad

    def _judge_pair(self, pair: AnswerPair, replies: tuple[Entry | BadRow, Entry | BadRow] | BadRow) -> JudgedPair:
        both = (replies, replies) if isinstance(replies, BadRow) else replies
        entries = [reply for reply in both if not isinstance(reply, BadRow)]
        if len(entries) < len(both):
            why = next(str(reply) for reply in both if isinstance(reply, BadRow))
            return JudgedPair(PairOutcome(None, "unscored", pair.lengths), {"refused": why})
        verdicts = [self._verdict(reply) for reply in entries]
        words = [
            {"first": first, "reply": reply["text"], "ended": reply["ended"], "verdict": verdict}
            | ({"failed": reply["failed"]} if "failed" in reply else {})
            for first, reply, verdict in zip(("answer", "other_answer"), entries, verdicts, strict=True)
        ]
        return JudgedPair(by_both_orders(verdicts[0], verdicts[1], pair.lengths), {"asked": words})

    def _verdict(self, reply: Entry) -> Verdict | None:
        """A reply that was cut may have gone on to say something else: it has no verdict."""
        return self.prompt.verdict(reply["text"]) if reply["ended"] and reply["text"] else None
