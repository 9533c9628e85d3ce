"""What requests to a server will come to, before the first is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ft.data.formats.messages import Message
from ft.models.generation.backends import BackendOptions

CHARACTERS_PER_TOKEN = 4
"""Of English prose, about; a server's own tokenizer is not at hand."""
TOKENS_PER_MESSAGE = 4
"""Marks of turns, about."""


@dataclass(frozen=True)
class Estimate:
    """Requests, tokens of their prompts (about), and tokens of their answers (at most)."""

    requests: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def with_requests(self, prompts: Sequence[Sequence[Message]], max_new_tokens: int) -> Estimate:
        messages = [message for prompt in prompts for message in prompt]
        characters = sum(len(message["content"]) for message in messages)
        read = math.ceil(characters / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(messages)
        written = len(prompts) * max_new_tokens
        return Estimate(self.requests + len(prompts), self.prompt_tokens + read, self.answer_tokens + written)

    def cost(self, price: Sequence[float]) -> float:
        """At most, in the currency of `price`, which is of a million tokens of prompts, and of answers."""
        return (self.prompt_tokens * price[0] + self.answer_tokens * price[1]) / 1e6

    def describe(self, options: BackendOptions) -> str:
        cost = f", which cost at most {self.cost(options.price):.2f}" if options.price else ""
        tokens = f"about {self.prompt_tokens:,} tokens of prompts and at most {self.answer_tokens:,} of answers"
        return f"{self.requests:,} {'request' if self.requests == 1 else 'requests'} with {tokens}{cost}"
