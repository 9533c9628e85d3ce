"""Where sampled answers come from: the model itself, vLLM in this process, or a server that speaks OpenAI's protocol.

A backend is a class with `answers`; to add one, write it here and name it in BackendOptions.kind and `backend`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ft.data.formats.messages import Message
from ft.models.generation.generate import Sampling
from ft.recipe import ModelSource

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class BackendOptions:
    """Who answers: a recipe's `backend:` block.

    kind         transformers: the model itself; vllm: the same weights in vLLM, in this process; server: whatever
                 serves `model` under `base_url` (`vllm serve` and others that speak OpenAI's protocol)
    base_url     server: what stands before /chat/completions, as http://localhost:8000/v1
    model        server: the name it serves the model under
    key_env      server: the environment variable that holds the key; null: no key is sent
    concurrency  server: requests under way at once
    timeout      server: seconds until a request counts as failed
    retries      server: further tries of a request that failed for a reason that may pass
    wait         server: seconds before the first further try, twice as many before each next
    gpu_memory   vllm: share of the GPU's memory it may take
    """

    kind: Literal["transformers", "server", "vllm"] = "transformers"
    base_url: str | None = None
    model: str | None = None
    key_env: str | None = None
    concurrency: int = 16
    timeout: float = 300.0
    retries: int = 6
    wait: float = 1.0
    gpu_memory: float = 0.9

    def __post_init__(self) -> None:
        for name in ("base_url", "model"):
            if self.kind == "server" and not getattr(self, name):
                raise ValueError(f"{name} is missing: a server is asked under an address, for a model by its name")
        for name in ("base_url", "model", "key_env"):
            if self.kind != "server" and getattr(self, name) is not None:
                raise ValueError(f"{name} is for kind: server")
        if self.base_url:
            _check_address(self.base_url)
        if self.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise ValueError("key_env is no name of an environment variable; the key itself stands in no recipe")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0 or self.wait < 0:
            raise ValueError("concurrency must be at least 1, timeout above 0, retries and wait not below 0")
        if not 0 < self.gpu_memory <= 1:
            raise ValueError(f"gpu_memory is {self.gpu_memory}; it is a share, above 0 and up to 1")


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url is no address. Write it as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("base_url holds more than an address. A key is read from the variable named in key_env")


@dataclass(frozen=True)
class Asked:
    """One answer wanted. `key` is its own: with the seed it decides what is drawn. `ids` is the rendered prompt."""

    key: str
    messages: Sequence[Message]
    ids: Sequence[int]


@dataclass(frozen=True)
class Reply:
    """`text` is None where the prompt does not fit; `ended` is False where the limit of tokens cut the answer."""

    text: str | None
    tokens: int
    ended: bool


class Backend(Protocol):
    def answers(self, asked: Sequence[Asked], sampling: Sampling, tick: Tick) -> Iterator[tuple[str, Reply]]:
        """Key and reply of each, in any order; `tick` hears of answers finished and tokens made since it last did."""
        ...


def backend(
    options: BackendOptions,
    model: ModelSource | None,
    folder: Path | None,
    template: str | None,
    quantization: Mapping[str, Any] | None,
) -> Backend:
    """The one that answers for the model in `folder`, or for `model` where that is None."""
    if options.kind == "server":
        from ft.models.generation.backends.openai import Server

        return Server(options)
    if options.kind == "vllm":
        from ft.models.generation.backends.vllm import Vllm

        return Vllm(options, model, folder, template, quantization)
    return Transformers(model, folder, template, quantization)


def seed_of(sampling: Sampling, key: str) -> int:
    """What backends that draw by themselves are told: decided by the seed and the answer's own key."""
    return int.from_bytes(hashlib.sha256(f"{sampling.seed}\n{key}".encode()).digest()[:4], "big") >> 1


class Transformers:
    """The model itself. An answer depends on the seed and its key alone, whatever stands beside it in a batch, up to
    the rounding of a batch's arithmetic; the same batch gives the same answers bit by bit."""

    def __init__(
        self,
        model: ModelSource | None,
        folder: Path | None,
        template: str | None = None,
        quantization: Mapping[str, Any] | None = None,
    ):
        from ft.models.generation.answerer import Speaker

        self.speaker = Speaker(model, folder, template, quantization)

    def answers(self, asked: Sequence[Asked], sampling: Sampling, tick: Tick) -> Iterator[tuple[str, Reply]]:
        from ft.models.generation.dialogue import Dialogue, Turn, rollout

        dialogues = [Dialogue(one.key, [Turn(one.messages[-1]["content"])], one.messages[:-1]) for one in asked]
        model, renderer = self.speaker.model, self.speaker.renderer
        for told in rollout(model, renderer, dialogues, sampling, batch_size=len(dialogues), tick=tick):
            answer = told.answers[0] if told.answers else None
            reply = Reply(answer.text, len(answer.ids), answer.ended) if answer else Reply(None, 0, False)
            yield told.dialogue.key, reply
