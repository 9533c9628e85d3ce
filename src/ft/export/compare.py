"""Is the exported model the trained one? Both answer fixed prompts, and their logits are laid side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft.encode.conversation import BadRow, Renderer
from ft.encode.pairs import through_answers
from ft.families import family_of
from ft.models.generation.engine import Request, engine_of
from ft.models.generation.sampling import Sampling
from ft.models.scorer import batch_scores
from ft.models.token_budget import prompt_budget

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = (
    "Hello!",
    "What colour is the sky?",
    "What colour is the frog?",
    "Name three animals, one on each line.",
    "Bonjour, comment ça va ?",
    "¿Dónde vive la abeja?",
    "Write a short letter to a friend.",
    "2 + 2 =",
)
ANSWERS = ("Yes.", "I do not know.")  # a reward model scores each behind every prompt
ANSWER_TOKENS = 24
TOLERANCE = 1e-4  # of the largest logit, at least of 1: what the order of float32 sums may change


@dataclass(frozen=True)
class Rows:
    """What is put to every model: prompts to answer, or conversations to score."""

    ids: tuple[list[int], ...]
    scored: bool
    stop_ids: tuple[int, ...]
    positions: int | None


@dataclass
class Behaviour:
    """What a model made of the rows: greedy answers and their logits (T, V) each, or scores; on the CPU."""

    answers: list[list[int]]
    logits: list[Any]


def rows_of(tokenizer: PreTrainedTokenizerBase, scored: bool, positions: int | None) -> Rows:
    """The fixed prompts as tokens; those that a template refuses or that do not fit are left out."""
    renderer = Renderer(tokenizer, train_on="last" if scored else "assistant")
    longest = prompt_budget(positions, 0 if scored else ANSWER_TOKENS)
    ids = _conversations(renderer) if scored else _prompts(renderer)
    fitting = tuple(row for row in ids if longest is None or len(row) <= longest)
    return Rows(fitting, scored, renderer.stop_ids, positions)


def _prompts(renderer: Renderer) -> list[list[int]]:
    if renderer.template is None:
        return [renderer.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    found = []
    for prompt in PROMPTS:
        try:
            found.append(renderer.prompt([{"role": "user", "content": prompt}]))
        except BadRow:
            continue
    return found


def _conversations(renderer: Renderer) -> list[list[int]]:
    asked = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt in PROMPTS
        for answer in ANSWERS
    ]
    return [row for row in through_answers(renderer, asked) if not isinstance(row, BadRow)]


def behaviour(model: Any, rows: Rows, like: Behaviour | None = None) -> Behaviour:
    """What the model does. Logits are taken along the answers of `like`, so that two models see the same tokens."""
    if rows.scored:
        return Behaviour([], [_plain_score(model, row) for row in rows.ids])
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    requests = [Request(prompt, str(number)) for number, prompt in enumerate(rows.ids)]
    completions = engine_of(model, rows.stop_ids).complete(requests, sampling, batch_size=4)
    answers = [one.completion_ids for one in completions]
    along = answers if like is None else like.answers
    return Behaviour(answers, [_logits(model, row, answer) for row, answer in zip(rows.ids, along, strict=True)])


def _logits(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Any:
    """(T, V) of all that the model's family predicts of the row, on the CPU."""
    import torch

    family = family_of(model.config, "model")
    batch = family.collator(pad_token_id=0)([family.completion_row(prompt, answer)])
    with torch.no_grad():
        logits, _ = family.predictions(model, {name: values.to(model.device) for name, values in batch.items()})
    return logits[0].float().cpu()


def _plain_score(model: Any, row: list[int]) -> Any:
    import torch

    return torch.tensor([batch_scores(model, [row])])


def difference(one: Behaviour, other: Behaviour) -> dict[str, Any]:
    """How far two models are apart: `one` is the trained one. KL is its mean a token, in nats."""
    largest = max(float(a.abs().max()) for a in one.logits)
    most = max(float((a - b).abs().max()) for a, b in zip(one.logits, other.logits, strict=True))
    found: dict[str, Any] = {"max_difference": most, "largest": largest, "relative": most / max(1.0, largest)}
    if one.answers:
        found["kl"] = _kl(one.logits, other.logits)
        pairs = list(zip(one.answers, other.answers, strict=True))
        found["equal_answers"] = sum(a == b for a, b in pairs) / len(pairs)
        found["equal_tokens"] = sum(map(_shared, pairs)) / max(1, sum(max(len(a), len(b)) for a, b in pairs))
    return {name: round(value, 9) for name, value in found.items()}


def _shared(pair: tuple[list[int], list[int]]) -> int:
    return sum(a == b for a, b in zip(*pair, strict=False))


def _kl(one: Sequence[Any], other: Sequence[Any]) -> float:
    total = tokens = 0.0
    for a, b in zip(one, other, strict=True):
        p, q = a.double().log_softmax(-1), b.double().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
        tokens += len(a)
    return total / tokens


def same(difference: Mapping[str, Any]) -> bool:
    """Whether two models are the same but for rounding in float32."""
    return bool(difference["relative"] <= TOLERANCE)
