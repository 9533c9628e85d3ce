"""The metrics of text_metrics.py as modules of the library `evaluate`: no script from the Hub, nothing in its cache.

Beside the value they hold its interval and the value of each answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

from ft.evaluation.statistics import bootstrap, mean, of_shares
from ft.evaluation.text_metrics import METRICS


class TextMetric(evaluate.Metric):
    """`TextMetric(config_name="rougeL").compute(predictions=[text], references=[[text, …]])`.

    Returns value, low, high (95 %) and each, a value an answer. Means of shares have Wilson's interval or a
    bootstrapped one (ft.evaluation.statistics.of_shares), corpus values such as BLEU's one bootstrapped over answers.
    """

    def __init__(self, config_name: str, seed: int = 1):
        super().__init__(config_name=config_name, keep_in_memory=True, seed=seed)

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": ListOf(Value("string"))})
        about = f"{self.config_name} of answers against one reference or several"
        return evaluate.MetricInfo(description=about, citation="", inputs_description="", features=features)

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
        metric = METRICS[self.config_name]
        stats_of_answer = metric.stats_of(references)
        stats = [
            stats_of_answer(answer, references_of_answer)
            for answer, references_of_answer in zip(predictions, references, strict=True)
        ]
        each = [metric.value(counts, 1) for counts in stats]
        sums = [sum(column) for column in zip(*stats, strict=True)]
        interval = of_shares(each, self.seed) if metric.value is mean else bootstrap(stats, metric.value, self.seed)
        return {"value": metric.value(sums, len(stats)), "low": interval[0], "high": interval[1], "each": each}
