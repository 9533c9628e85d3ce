"""Answers from a model: batched, sorted by length, the same for one prompt whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PRESETS = {
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "llama2": {"temperature": 0.6, "top_p": 0.9},  # generation.py of the Llama 2 release
    "creative": {"temperature": 1.0, "top_p": 0.95},
}


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; `max_new_tokens` counts the end-of-turn token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 1

    def arguments(self) -> dict[str, Any]:
        if self.temperature == 0:
            return {"do_sample": False, "max_new_tokens": self.max_new_tokens}
        sampled = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return {**sampled, "max_new_tokens": self.max_new_tokens}


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    batch_size: int = 64,
    keep_stop: bool = False,
    tick: Callable[[int], None] = lambda answered: None,
) -> list[list[int]]:
    """One answer per prompt, as token ids in the order of the prompts; the end-of-turn token stays on `keep_stop`."""
    import torch

    torch.manual_seed(sampling.seed)
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = [prompts[place] for place in places]
        out = _continued(model, batch, sampling, stop_ids, pad_id)
        for place, tokens in zip(places, out, strict=True):
            said = _until(tokens, stop_ids)
            answers[place] = tokens[: len(said) + 1] if keep_stop else said
        tick(len(places))
    return answers


def stream(
    model: Any,
    prompt: list[int],
    sampling: Sampling,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    hear: Callable[[int], None],
) -> None:
    """Answer one prompt; `hear` gets each token as soon as it is chosen, the end-of-turn token included."""
    import torch

    torch.manual_seed(sampling.seed)
    _continued(model, [prompt], sampling, stop_ids, pad_id, _Streamer(hear))


class _Streamer:
    """What transformers tells of tokens while it generates: first the whole prompt, then each new one."""

    def __init__(self, hear: Callable[[int], None]):
        self.hear, self.prompt_is_told = hear, False

    def put(self, tokens: Any) -> None:
        if self.prompt_is_told:
            for token in tokens.flatten().tolist():
                self.hear(token)
        self.prompt_is_told = True

    def end(self) -> None:
        pass


def _continued(
    model: Any,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    stop_ids: Sequence[int],
    pad_id: int,
    streamer: _Streamer | None = None,
) -> list[list[int]]:
    """What the model writes behind each prompt, padded on the right."""
    import torch

    ids, mask = _left_padded(prompts, pad_id)
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            eos_token_id=list(stop_ids),
            pad_token_id=pad_id,
            use_cache=True,
            streamer=streamer,
            **sampling.arguments(),
        )
    continued: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return continued


def _left_padded(prompts: Sequence[list[int]], pad_id: int) -> tuple[Any, Any]:
    """Ids and mask, each (B, T): prompts end at the same column, where answers begin."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def _until(tokens: list[int], stop_ids: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end]
