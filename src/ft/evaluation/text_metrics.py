"""Metrics that compare an answer with reference texts, computed on this machine: nothing is fetched.

The library `evaluate` ships none: `evaluate.load("rouge")` downloads a script and runs it. What these scripts call are
`rouge_score` and `sacrebleu`, called here. Every value is from 0 to 1 (papers often print a hundred times that), but
for CIDEr-D, which goes to 10 (and papers print a hundred times that too).
To add one: its two functions and one entry in METRICS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from ft.evaluation.picture_metrics import cider_counts, vqa_accuracy
from ft.evaluation.statistics import mean

Stats = Callable[[str, Sequence[str]], list[float]]


@dataclass(frozen=True)
class Metric:
    """`stats` counts one answer against its references; `value` makes a number of the sums over so many answers. What
    depends on how words are spread over all references has `over`, which makes `stats` of them."""

    stats: Stats
    value: Callable[[Sequence[float], int], float]
    over: Callable[[Sequence[Sequence[str]]], Stats] | None = None

    def stats_of(self, corpus: Sequence[Sequence[str]]) -> Stats:
        return self.over(corpus) if self.over else self.stats


def _exact(answer: str, references: Sequence[str]) -> list[float]:
    """1 where the answer is one of the references letter by letter, blanks around both apart."""
    return [float(answer.strip() in [reference.strip() for reference in references])]


@cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind])


def _rouge(kind: str, answer: str, references: Sequence[str]) -> list[float]:
    """F-measure against the best of the references. Words are runs of a-z and 0-9: other letters part them."""
    return [float(_scorer(kind).score_multi(list(references), answer)[kind].fmeasure)]


@cache
def _counter() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)  # asked for single answers' counts; the same counts without it


def _bleu_counts(answer: str, references: Sequence[str]) -> list[float]:
    """Right and all n-grams of each order, the answer's length, and that of the reference nearest to it."""
    score = _counter().sentence_score(answer, list(references))
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _bleu(sums: Sequence[float], answers: int) -> float:
    """Corpus BLEU; of a single answer over those orders that it is long enough for."""
    numbers = [round(number) for number in sums]
    orders = (len(numbers) - 2) // 2
    matches, all_grams, (answer_length, reference_length) = numbers[:orders], numbers[orders:-2], numbers[-2:]
    score = _counter().compute_bleu(
        matches, all_grams, answer_length, reference_length, smooth_method="exp", effective_order=answers == 1
    )
    return float(score.score) / 100


def _alone(answer: str, references: Sequence[str]) -> list[float]:
    return cider_counts([references])(answer, references)


def _mean_up_to_ten(sums: Sequence[float], answers: int) -> float:
    return sums[0] / answers  # no share, so that its interval is bootstrapped


METRICS = {
    "exact_match": Metric(_exact, mean),
    "rouge1": Metric(partial(_rouge, "rouge1"), mean),
    "rouge2": Metric(partial(_rouge, "rouge2"), mean),
    "rougeL": Metric(partial(_rouge, "rougeL"), mean),
    "rougeLsum": Metric(partial(_rouge, "rougeLsum"), mean),
    "bleu": Metric(_bleu_counts, _bleu),
    "cider": Metric(_alone, _mean_up_to_ten, cider_counts),
    "vqa_accuracy": Metric(vqa_accuracy, mean),
}
