"""What verdicts on pairs of answers add up to: pure numbers.

A pair is won when the judge prefers the answer wherever it stands. Verdicts that contradict each other when the order
is turned, and a tie in either order, make a tie; a pair with a verdict that cannot be read has no outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft.evaluation.judge_prompt import Verdict
from ft.evaluation.statistics import bootstrap, wilson
from ft.preferences import of_like_length as are_of_like_length

Outcome = Literal["win", "tie", "loss"]
POINTS = {"win": 2, "tie": 1, "loss": 0}  # halves, so that sums are whole numbers


@dataclass(frozen=True)
class PairOutcome:
    """One pair. `outcome` is of the first model's answer, None where there is none; `why` says what made a tie or none.

    verdicts  in the order (ours first, the other's first), where the judge was asked in both
    lengths   of both answers, in characters
    margin    how sure a win or a loss is: a difference of scores, or the share of orders that say so
    """

    outcome: Outcome | None
    why: str
    lengths: tuple[int, int]
    margin: float = 0.0
    verdicts: tuple[Verdict | None, Verdict | None] | None = None

    @property
    def points(self) -> int:
        assert self.outcome is not None
        return POINTS[self.outcome]


def by_both_orders(ours_first: Verdict | None, other_first: Verdict | None, lengths: tuple[int, int]) -> PairOutcome:
    """The outcome of a pair that was asked in both orders."""
    verdicts = (ours_first, other_first)
    if None in verdicts:
        return PairOutcome(None, "unparsed", lengths, verdicts=verdicts)
    outcomes = (_for_ours(ours_first, "first"), _for_ours(other_first, "second"))
    if outcomes[0] == outcomes[1]:
        margin = 1.0 if outcomes[0] != "tie" else 0.0
        return PairOutcome(outcomes[0], "", lengths, margin, verdicts)
    return PairOutcome("tie", "wavers" if "tie" in outcomes else "flip", lengths, verdicts=verdicts)


def _for_ours(verdict: Verdict | None, place: Verdict) -> Outcome:
    return "tie" if verdict == "tie" else "win" if verdict == place else "loss"


def by_scores(own_score: float, other_score: float, lengths: tuple[int, int], tie: float = 0.0) -> PairOutcome:
    """The higher score wins; scores no further apart than `tie` make a tie."""
    difference = own_score - other_score
    if abs(difference) <= tie:
        return PairOutcome("tie", "", lengths)
    return PairOutcome("win" if difference > 0 else "loss", "", lengths, abs(difference))


def rate(pairs: Sequence[PairOutcome], seed: int) -> dict[str, Any]:
    """Win rate (wins and half of the ties) over pairs that have an outcome, with its 95 % interval by prompt.

    Bootstrapped; where all pairs came out alike that has no width, and Wilson's stands instead.
    """
    points = [pair.points for pair in pairs if pair.outcome]
    counts = {name: sum(pair.outcome == outcome for pair in pairs) for name, outcome in COUNTS.items()}
    if not points:
        return {"win_rate": None, "win_rate_low": None, "win_rate_high": None, **counts}
    low, high = bootstrap([[point] for point in points], _half_points, seed)
    if len(set(points)) == 1:
        low, high = wilson(sum(points) / 2, len(points))
    return {"win_rate": sum(points) / (2 * len(points)), "win_rate_low": low, "win_rate_high": high, **counts}


COUNTS: dict[str, Outcome] = {"wins": "win", "ties": "tie", "losses": "loss"}


def _half_points(sums: Sequence[float], rows: int) -> float:
    return sums[0] / (2 * rows)


def numbers(pairs: Sequence[PairOutcome], seed: int) -> dict[str, Any]:
    """Everything about one comparison: the win rate, the judge's own consistency, and what length has to do with it."""
    counts = {**rate(pairs, seed), "pairs": len(pairs)}
    for why in ("same", "unparsed", "unscored"):
        counts[why] = sum(pair.why == why for pair in pairs)
    return {**counts, **orders(pairs), **length(pairs, seed)}


def orders(pairs: Sequence[PairOutcome]) -> dict[str, Any]:
    """Of pairs asked in both orders: contradictions, their share, and how often what stood first was preferred.

    A judge that looks at the answers alone flips never and prefers the first place as often as the second.
    """
    verdicts_of_pairs = [pair.verdicts for pair in pairs if pair.verdicts and None not in pair.verdicts]
    if not verdicts_of_pairs:
        return {}
    flips = sum(pair.why == "flip" for pair in pairs)
    preferred = [verdict for verdicts in verdicts_of_pairs for verdict in verdicts if verdict != "tie"]
    return {
        "flips": flips,
        "flip_rate": flips / len(verdicts_of_pairs),
        "wavers": sum(pair.why == "wavers" for pair in pairs),
        "consistency": sum(pair.why == "" for pair in pairs if pair.verdicts) / len(verdicts_of_pairs),
        "first_preferred": sum(verdict == "first" for verdict in preferred) / len(preferred) if preferred else None,
    }


def length(pairs: Sequence[PairOutcome], seed: int) -> dict[str, Any]:
    """How often the longer answer won, of won and lost pairs of different length; the win rate where lengths are alike.

    Lengths are in characters, which every tokenizer counts alike.
    """
    decided = [pair for pair in pairs if pair.outcome in ("win", "loss") and pair.lengths[0] != pair.lengths[1]]
    longer = sum((pair.outcome == "win") == (pair.lengths[0] > pair.lengths[1]) for pair in decided)
    like = [pair for pair in pairs if pair.outcome and of_like_length(pair)]
    lengths = [pair.lengths for pair in pairs]
    like_rate = rate(like, seed)
    return {
        "longer_wins": longer / len(decided) if decided else None,
        "longer_pairs": len(decided),
        **{f"like_length_{name}": like_rate[name] for name in ("win_rate", "win_rate_low", "win_rate_high")},
        "like_length_pairs": len(like),
        "characters": sum(own for own, _ in lengths) / len(lengths),
        "other_characters": sum(other for _, other in lengths) / len(lengths),
    }


def of_like_length(pair: PairOutcome) -> bool:
    return are_of_like_length(*pair.lengths)


def groups(pairs: Sequence[PairOutcome], values: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
    """The win rate of the pairs of each value of a column, in the order they come."""
    by_value = {}
    for value in dict.fromkeys(values):
        group = [pair for pair, pair_value in zip(pairs, values, strict=True) if pair_value == value]
        by_value[value] = {"pairs": len(group), **rate(group, seed)}
    return by_value


def by_length(pairs: Sequence[PairOutcome], seed: int) -> dict[str, dict[str, Any]]:
    """The win rate where our answer is the shorter one, of similar length, and the longer one."""
    kinds: dict[str, Callable[[PairOutcome], bool]] = {
        "shorter": lambda pair: not of_like_length(pair) and pair.lengths[0] < pair.lengths[1],
        "like": of_like_length,
        "longer": lambda pair: not of_like_length(pair) and pair.lengths[0] > pair.lengths[1],
    }
    return {
        name: {"pairs": len(some), **rate(some, seed)}
        for name, test in kinds.items()
        if (some := [*filter(test, pairs)])
    }
