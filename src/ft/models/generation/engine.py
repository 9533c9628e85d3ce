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
    whatever else chose it. finish_reason is "length" where the limit of tokens cut it. `stop` is the one of the
    sampling's texts that ended it; "": a token did."""

    key: str
    completion_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    stop: str = ""

    @property
    def text_ids(self) -> list[int]:
        """Without the token that ended it. The last of a text that did may begin with what belongs to the answer."""
        by_token = self.finish_reason == "stop" and not self.stop
        return self.completion_ids[:-1] if by_token else self.completion_ids

    def text(self, tokenizer: Any, *, special_tokens: bool = False) -> str:
        """What was answered, without the text that ended it; with `special_tokens` the token that did is in it."""
        ids = self.completion_ids if special_tokens else self.text_ids
        text = str(tokenizer.decode(ids, skip_special_tokens=not special_tokens))
        return (text.partition(self.stop)[0] if self.stop else text).strip()


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
    tokenizer    makes text of a completion, where the sampling has texts that end it
    reuse_cache  False reads every prompt from its beginning, batch by batch. Models whose cached rows cannot be given
                 on (sliding windows, rope that moves with the length) are always read so, the latter one by one
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], *, reuse_cache: bool = True, tokenizer: Any = None):
        from ft.models.generation.kv_cache import has_moving_rope

        self.model, self.stop_ids, self.tokenizer = model, tuple(stop_ids), tokenizer
        self.positions = learnt_positions(model.config.get_text_config(decoder=True).to_dict())
        self.why_slow = self.why_not_reusable()
        self.reuses_cache = reuse_cache and not self.why_slow
        self.one_by_one = has_moving_rope(model)  # its frequencies follow the longest row of a batch

    padding_side: Literal["left", "right"] = "left"  # of prompts that are read side by side
    why_no_beams = ""  # of a family that transformers' own decoding does not serve: why

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
        if sampling.stop and self.tokenizer is None:
            raise ValueError("a text that ends completions needs a tokenizer: Engine(model, stop_ids, tokenizer)")
        from ft.models.generation.beam_search import complete_by_beams
        from ft.models.generation.continuous_batch import ContinuousBatch

        queue = iter(requests)
        batch_size = 1 if self.one_by_one else batch_size
        if sampling.beams > 1:
            yield from complete_by_beams(self, queue, sampling, batch_size, follow, on_token)
            return
        first = list(islice(queue, batch_size))
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

    def known_ids(self, request: Request) -> Sequence[int]:
        """Tokens that stand before the first of its completion, as far as they are the decoder's."""
        return request.prompt_ids

    def stop_text(self, completion_ids: Sequence[int], sampling: Sampling) -> str:
        """The first of the sampling's texts in what these tokens say; "" where there is none."""
        text = str(self.tokenizer.decode(completion_ids, skip_special_tokens=True)) if sampling.stop else ""
        there = [stop for stop in sampling.stop if stop in text]
        return min(there, key=text.index, default="")

    def completion(self, key: str, ids: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
        """A completion that has ended: by a token, by a text, or by its limit."""
        if ids[-1] in self.stop_ids:
            return Completion(key, ids, logprobs, "stop")
        stop = self.stop_text(ids, sampling)
        return Completion(key, ids, logprobs, "stop" if stop else "length", stop)

    def complete(self, requests: Sequence[Request], sampling: Sampling, *, batch_size: int = 64) -> list[Completion]:
        """The completion of each request, in their order. Raises ValueError where two share a key."""
        if len({request.key for request in requests}) < len(requests):
            raise ValueError("two requests share a key, by which their completions are told apart")
        ordered = sorted(requests, key=lambda request: -len(request.prompt_ids))
        completions = {one.key: one for one in self.generate(ordered, sampling, batch_size=batch_size)}
        return [completions[request.key] for request in requests]
