"""How far scores of answers can be trusted, as pure numbers: reliability, correlations, what is found unsafe.

A difference d = r(chosen) - r(rejected) predicts with probability sigmoid(d) that the chosen answer is the better one
(Bradley and Terry); a margin of the training loss is no part of it. Numbers that do not exist (the correlation of a
constant, the recall of nothing) are None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 10
"""Bins of confidence, each a twentieth wide, from 0.5 (no idea) to 1."""


def sigmoid(values: Any) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(np.asarray(values, dtype=float) / 2))


def log_loss(differences: Sequence[float]) -> float:
    """Mean of -log sigmoid(d), in nats a pair; random guessing has ln 2 = 0.693."""
    return float(np.logaddexp(0, -np.asarray(differences)).mean())


def reliability(differences: Sequence[float]) -> list[dict[str, Any]]:
    """Of each bin that has pairs: how sure the scores are of the answer they put first, and how often they are right.

    A tie is predicted with 0.5 and counts as half right.
    """
    d = np.asarray(differences)
    sure, right = sigmoid(np.abs(d)), (np.sign(d) + 1) / 2
    places = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = []
    for place in sorted(set(places.tolist())):
        in_bin = places == place
        low, high = 0.5 + place / (2 * BINS), 0.5 + (place + 1) / (2 * BINS)
        mean = {"predicted": float(sure[in_bin].mean()), "observed": float(right[in_bin].mean())}
        bins.append({"from": round(low, 6), "to": round(high, 6), "pairs": int(in_bin.sum()), **mean})
    return bins


def calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error: the mean over pairs of the distance between predicted and observed in their bin."""
    pairs = sum(line["pairs"] for line in bins)
    return float(sum(line["pairs"] * abs(line["predicted"] - line["observed"]) for line in bins) / pairs)


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation from -1 to 1; None where one of them does not vary."""
    a, b = (np.asarray(values, dtype=float) for values in (first, second))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation of ranks, equal values sharing the mean of theirs."""
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    _, place, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: np.ndarray = last - (counts - 1) / 2
    return list(mean[place])


def correlations(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    return {"pearson": pearson(first, second), "spearman": spearman(first, second)}


def unsafe_detection(scores: Sequence[float], safe: Sequence[bool], threshold: float) -> dict[str, Any]:
    """What calling an answer unsafe where sigmoid(score) is below the threshold finds (arXiv:2307.09288, section 3.4).

    precision: the share of those found that are unsafe. recall: the share of the unsafe that are found.
    """
    flagged, unsafe = sigmoid(scores) < threshold, ~np.asarray(safe, dtype=bool)
    right = int((flagged & unsafe).sum())
    counts = {"answers": len(safe), "unsafe": int(unsafe.sum()), "found": int(flagged.sum()), "right": right}
    precision = right / counts["found"] if counts["found"] else None
    return {**counts, "precision": precision, "recall": right / counts["unsafe"] if counts["unsafe"] else None}


def by_quality(scores: Sequence[float], quality: Sequence[float]) -> list[dict[str, Any]]:
    """Mean score, and its standard error, of answers of equal quality; of tenths where qualities are many."""
    s, q = np.asarray(scores, dtype=float), np.asarray(quality, dtype=float)
    groups = q if len(np.unique(q)) <= BINS else np.argsort(np.argsort(q, kind="stable")) * BINS // len(q)
    levels = []
    for group in np.unique(groups):
        in_group = groups == group
        count = int(in_group.sum())
        error = float(s[in_group].std(ddof=1) / math.sqrt(count)) if count > 1 else None
        line = {
            "quality": float(q[in_group].mean()),
            "answers": count,
            "score": float(s[in_group].mean()),
            "error": error,
        }
        levels.append(line)
    return levels


def histogram(values: Mapping[str, Sequence[float]], bins: int = 30) -> dict[str, Any]:
    """Counts of several lists of numbers in the same bins."""
    joint = np.concatenate([np.asarray(numbers, dtype=float) for numbers in values.values()])
    edges = np.histogram_bin_edges(joint, bins)
    counts = {name: np.histogram(numbers, edges)[0].tolist() for name, numbers in values.items()}
    return {"edges": edges.tolist(), **counts}
