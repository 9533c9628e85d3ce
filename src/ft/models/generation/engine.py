"""One engine for every completion: prefill, continuous batching over one key/value cache, sampling by seed and key.

Requests are completed side by side. Where one has ended, the next takes its slot of the cache, since a batch that waits
for its longest completion is mostly empty. A dialogue keeps its slot between its turns and reads only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from ft.errors import fail
from ft.families import family_of
from ft.models.generation.sampling import Sampling
from ft.models.limits import learnt_positions
from ft.models.token_budget import completion_budget
from ft.recipe.kind import function_at

if TYPE_CHECKING:
    from ft.models.generation.kv_cache import BatchCache, SlotCache


@dataclass(frozen=True)
class Request:
    """A prompt to complete. `key` is its own: with the seed it decides which tokens are sampled.

    `max_new_tokens` is a limit below the sampling's, where the model has no room for more.
    """

    prompt_ids: Sequence[int]
    key: str
    max_new_tokens: int | None = None
    picture: str | None = None  # that its picture tokens stand for (ft.encode.pictures)


@dataclass(frozen=True)
class Completion:
    """`completion_ids` with the token that ended them; `logprobs` of each, in nats, at the sampling's temperature and
    before `top_p`. finish_reason is "length" where the limit of tokens cut it."""

    key: str
    completion_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]

    @property
    def text_ids(self) -> list[int]:
        """Without the token that ended it."""
        return self.completion_ids[:-1] if self.finish_reason == "stop" else self.completion_ids


Follow = Callable[[Completion], Request | None]
"""The request that goes on where a completion has ended, a dialogue's next turn; it stays in the same slot."""

OnToken = Callable[[str, int], None]
"""Hears the key of a request and each of its tokens as soon as it is chosen, the one that ends it included."""


def engine_of(model: Any, stop_ids: Sequence[int], tokenizer: Any = None) -> Engine:
    """What completes prompts with a model of this family; one that reads pictures does so by its tokenizer's reader."""
    engine: Engine = function_at(family_of(model.config, "model").engine)(model, stop_ids, tokenizer=tokenizer)
    return engine


class Engine:
    """Completes requests with one model, which must be in eval mode.

    stop_ids     tokens that end a completion
    reuse_cache  False reads every prompt from its beginning, batch by batch. Models whose cached rows cannot be given
                 on (sliding windows, rope that moves with the length) are always read so, the latter one by one
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], *, reuse_cache: bool = True, tokenizer: Any = None):
        from ft.models.generation.kv_cache import has_moving_rope

        self.model, self.stop_ids = model, tuple(stop_ids)
        self.positions = learnt_positions(model.config.get_text_config(decoder=True).to_dict())
        self.why_slow = self.why_not_reusable()
        self.reuses_cache = reuse_cache and not self.why_slow
        self.one_by_one = has_moving_rope(model)  # its frequencies follow the longest row of a batch

    def why_not_reusable(self) -> str:
        """Why a row of the cache cannot be given to another request; empty where it can."""
        from ft.models.generation.kv_cache import why_not_reusable

        return why_not_reusable(self.model)

    def new_cache(self, slots: int) -> SlotCache | BatchCache:
        from ft.models.generation.kv_cache import BatchCache, NextTokenModel, SlotCache

        model = NextTokenModel(self.model)
        return SlotCache(model, slots) if self.reuses_cache else BatchCache(model)

    def generate(
        self,
        requests: Iterable[Request],
        sampling: Sampling,
        *,
        batch_size: int = 64,
        follow: Follow | None = None,
        on_token: OnToken | None = None,
    ) -> Iterator[Completion]:
        """Completions as they end, at most `batch_size` of them under way at once.

        Requests are taken in their order: give the longest first, so that the cache does not grow on the way and the
        last ones are short.
        """
        if self.model.training:
            raise ValueError("the model is in training mode, where dropout changes answers: call model.eval()")
        from ft.models.generation.continuous_batch import ContinuousBatch

        queue = iter(requests)
        first = list(islice(queue, 1 if self.one_by_one else batch_size))
        if first:
            yield from ContinuousBatch(self, sampling, first, queue, follow, on_token).completions()

    def limit_of(self, request: Request, sampling: Sampling) -> int:
        """Tokens that its completion may have. Raises UserError where the prompt fills the learnt positions."""
        asked = sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        limit = completion_budget(self.positions, len(request.prompt_ids), asked)
        if limit < 1:
            what = f"a prompt has {len(request.prompt_ids):,} tokens, and the model {self.positions:,} positions"
            raise fail(self.model.config.name_or_path, what, "Shorten it.")
        return limit

    def complete(self, requests: Sequence[Request], sampling: Sampling, *, batch_size: int = 64) -> list[Completion]:
        """The completion of each request, in their order. Raises ValueError where two share a key."""
        if len({request.key for request in requests}) < len(requests):
            raise ValueError("two requests share a key, by which their completions are told apart")
        ordered = sorted(requests, key=lambda request: -len(request.prompt_ids))
        completions = {one.key: one for one in self.generate(ordered, sampling, batch_size=batch_size)}
        return [completions[request.key] for request in requests]
