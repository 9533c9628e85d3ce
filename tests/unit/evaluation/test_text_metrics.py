"""Metrics of texts equal the libraries they come from, called directly; nothing is fetched."""

from __future__ import annotations

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from ft.evaluation.statistics import wilson
from ft.evaluation.text_metric_modules import TextMetric
from ft.evaluation.text_metrics import METRICS

SAID = ["the cat sat on the mat today", "a b c d e f g", "hello there world", "yes"]
RIGHT = [["the cat sat on a mat", "the cat was here"], ["a b c x e f g h"], ["hello there world"], ["no", "yes"]]


def found(name: str) -> dict:
    return TextMetric(name, seed=1).compute(predictions=SAID, references=RIGHT)


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores_own(kind):
    scorer = RougeScorer([kind])
    each = [scorer.score_multi(right, said)[kind].fmeasure for said, right in zip(SAID, RIGHT, strict=True)]
    numbers = found(kind)
    assert numbers["each"] == each
    assert numbers["value"] == pytest.approx(sum(each) / len(each), abs=1e-15)
    assert numbers["low"] <= numbers["value"] <= numbers["high"]


def test_bleu_is_sacrebleus_own_over_all_answers_and_for_each():
    streams = [[right[place] if place < len(right) else None for right in RIGHT] for place in range(2)]
    numbers = found("bleu")
    assert numbers["value"] == pytest.approx(sacrebleu.corpus_bleu(SAID, streams).score / 100, abs=1e-12)
    each = [sacrebleu.sentence_bleu(said, right).score / 100 for said, right in zip(SAID, RIGHT, strict=True)]
    assert numbers["each"] == pytest.approx(each, abs=1e-12)


def test_bleu_of_short_answers_is_that_of_a_corpus():
    said, right = ["yes it", "it was", "no"], [["yes it is"], ["it was"], ["no"]]
    value = TextMetric("bleu").compute(predictions=said, references=right)["value"]
    assert value == pytest.approx(sacrebleu.corpus_bleu(said, [[one[0] for one in right]]).score / 100, abs=1e-12)


def test_known_values():
    """Golden values of rouge_score 0.1.2 and sacrebleu 2.6.0, so that another version of them is noticed."""
    assert found("rouge1")["each"] == pytest.approx([0.769230769, 0.8, 1.0, 1.0])
    assert found("bleu")["each"] == pytest.approx([0.434720872, 0.356402646, 1.0, 1.0])
    assert found("bleu")["value"] == pytest.approx(0.417691022, abs=1e-8)


def test_exact_match_takes_any_reference_letter_by_letter():
    numbers = found("exact_match")
    assert numbers["each"] == [0.0, 0.0, 1.0, 1.0]
    assert (numbers["low"], numbers["high"]) == wilson(2, 4)
    assert METRICS["exact_match"].stats(" Yes\n", ["yes"]) == [0.0]
    assert METRICS["exact_match"].stats(" yes\n", ["yes"]) == [1.0]
