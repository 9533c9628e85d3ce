"""How alike several answers to one prompt are (Self-BLEU, arXiv:1802.01886; arXiv:2307.09288, figure 21)."""

from __future__ import annotations

from collections.abc import Sequence

from ft.evaluation.text_metrics import METRICS


def self_bleu(answers_of_prompts: Sequence[Sequence[str]]) -> float | None:
    """Mean BLEU of each answer against the others to its prompt, from 0 to 1: 1 says the same every time.

    Prompts with one answer say nothing; None where there are only such.
    """
    bleu = METRICS["bleu"]
    values = [
        bleu.value(bleu.stats(answer, [*answers[:place], *answers[place + 1 :]]), 1)
        for answers in answers_of_prompts
        if len(answers) > 1
        for place, answer in enumerate(answers)
    ]
    return sum(values) / len(values) if values else None
