"""Where sampled answers come from: the model itself, vLLM in this process, or a server that speaks OpenAI's protocol.

Each is a Worker, the unit of inference work: made from plain values (WorkerSpec), it turns a batch of columns into
columns. To add one, write its class in a module here and name it in BackendOptions.kind and `load_worker`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ft.errors import fail
from ft.models.generation.sampling import Sampling
from ft.recipe import ModelSource
from ft.recipe.job import Job

Tick = Callable[[int, int], None]

REFILLS = 4

Columns = dict[str, list[Any]]
"""A batch by columns, all of one length, in plain values."""


@dataclass(frozen=True)
class BackendOptions:
    """Who answers: a recipe's `backend:` block.

    kind         transformers: the model itself; vllm: the same weights in vLLM, in this process; server: whatever
                 serves `model` under `base_url` (`vllm serve` and others that speak OpenAI's protocol)
    base_url     server: what stands before /chat/completions, as http://localhost:8000/v1
    model        server: the name it serves the model under
    key_env      server: the environment variable that holds the key; null: no key is sent
    concurrency  server: requests under way at once
    timeout      server: seconds a request may take, from connecting to the last byte of its reply
    retries      server: further tries of a request that failed for a reason that may pass
    wait         server: seconds before the first further try, twice as many before each next
    max_requests  server: most requests of the stage; more are refused before the first is sent
    max_tokens   server: most tokens, of prompts as estimated and of answers as long as they may be
    price        server: what a million tokens cost, [of prompts, of answers]; only to say it before anything is asked
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
    max_requests: int | None = None
    max_tokens: int | None = None
    price: list[float] | None = None
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
        for name in ("max_requests", "max_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.price is not None and (len(self.price) != 2 or min(self.price) < 0):
            raise ValueError(f"price is {self.price}; write two prices a million tokens: [of prompts, of answers]")
        if not 0 < self.gpu_memory <= 1:
            raise ValueError(f"gpu_memory is {self.gpu_memory}; it is a share, above 0 and up to 1")


def _check_address(url: str) -> None:
    no_address = "base_url is no address. Write it as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets of no IPv6 address, a port beyond 65535
        raise ValueError(no_address) from None
    if not whole or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError(no_address)
    if parts.username or parts.password or parts.query:
        raise ValueError("base_url holds more than an address. A key is read from the variable named in key_env")


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made of: plain values, so that it can be made in another process or on another machine.

    The model is the finished one in `folder`, or `model` itself where that is None; a server needs neither.
    `batch_size` is how many requests the model itself completes side by side. With `special_tokens` those stay in
    the texts of the model itself, the one that ends them too: templates mark tool calls by them.
    """

    options: BackendOptions = field(default_factory=BackendOptions)
    model: ModelSource | None = None
    folder: Path | None = None
    chat_template: str | None = None
    quantization: Mapping[str, Any] | None = None
    batch_size: int = 64
    special_tokens: bool = False

    @staticmethod
    def of(job: Job, batch_size: int, options: BackendOptions | None = None) -> WorkerSpec:
        """The model a stage starts from; by itself, unless `options` name another backend."""
        model = (job.model, job.init, job.template, job.blocks.get("quantization"))
        return WorkerSpec(options or BackendOptions(), *model, batch_size)

    @property
    def requests_per_batch(self) -> int | None:
        """How many requests a worker gets at once; None: all. More than are completed side by side, so that a slot
        that is free is taken by the next; not many more, since a killed run answers an unfinished batch again."""
        return None if self.options.kind == "server" else REFILLS * self.batch_size


class Worker(Protocol):
    """Answers batches of requests. An answer depends on seed, prompt and key of its request, not on the batch."""

    def __init__(self, spec: WorkerSpec) -> None: ...

    def __call__(self, batch: Columns, sampling: Sampling) -> Iterator[Columns]:
        """Parts of the answer's columns as they are finished, in any order.

        batch    key, messages, prompt_ids (the messages as the model's own template renders them)
        answers  key; text, None where prompt or answer do not fit into the model's positions; tokens, how long it is;
                 ended, False where the limit of tokens cut it; failed, why a server gave none, else ""
        """
        ...


def load_worker(spec: WorkerSpec) -> Worker:
    """The worker that `spec.options` names, with its model loaded."""
    if spec.options.kind == "server":
        from ft.models.generation.backends.openai import ServerWorker

        return ServerWorker(spec)
    if spec.options.kind == "vllm":
        from ft.models.generation.backends.vllm import VllmWorker

        return VllmWorker(spec)
    from ft.models.generation.backends.local import LocalWorker

    return LocalWorker(spec)


@dataclass(frozen=True)
class WorkerRequest:
    """One row of a worker's batch."""

    key: str
    messages: Sequence[Any]
    prompt_ids: Sequence[int]


def requests(rows: Iterable[tuple[str, Any, Any]]) -> Columns:
    """A worker's batch, from (key, messages, prompt_ids) of each request."""
    keys, messages, prompt_ids = map(list, zip(*rows, strict=True))
    return {"key": keys, "messages": messages, "prompt_ids": prompt_ids}


def answer_requests(
    worker: Worker, batch: Sequence[WorkerRequest], tick: Tick, *, sampling: Sampling
) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `answers_by_key`, of requests one by one."""
    return answers_by_key(worker, requests((one.key, one.messages, one.prompt_ids) for one in batch), sampling, tick)


def answer(key: str, text: str | None, tokens: int, ended: bool) -> Columns:
    """A worker's part with one answer."""
    return {"key": [key], "text": [text], "tokens": [tokens], "ended": [ended], "failed": [""]}


def failure(key: str, why: str) -> Columns:
    """A worker's part where a request came to nothing."""
    return {"key": [key], "text": [None], "tokens": [0], "ended": [False], "failed": [why]}


def answers_by_key(
    worker: Worker, batch: Columns, sampling: Sampling, tick: Tick
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, {text, tokens, ended}) of each answer as it comes, with `failed` where a request came to nothing; `tick`
    hears of answers finished and their tokens."""
    names = ("text", "tokens", "ended")
    for part in worker(batch, sampling):
        tick(len(part["key"]), sum(part["tokens"]))
        for key, why, *values in zip(part["key"], part["failed"], *(part[name] for name in names), strict=True):
            yield key, dict(zip(names, values, strict=True)) | ({"failed": why} if why else {})


def more_parameters(sampling: Sampling) -> dict[str, Any]:
    """What of a sampling is not at its default, by the names that vLLM gives it, as a library and as a server; others
    that speak OpenAI's protocol know `stop` alone and refuse the rest, or pass over it."""
    names = ("top_k", "min_p", "repetition_penalty", "stop")
    return {name: value for name in names if (value := sampling.record().get(name))}


def refuse_beams(sampling: Sampling, who: str) -> None:
    if sampling.beams > 1:
        fix = "Write `backend: {kind: transformers}`, or take the beams away."
        raise fail("decoding.beams", f"{who} draws answers token by token and follows no beams", fix)


def request_seed(sampling: Sampling, key: str) -> int:
    """The seed of one request, for backends that sample by themselves: decided by the seed and the request's key."""
    return int.from_bytes(hashlib.sha256(f"{sampling.seed}\n{key}".encode()).digest()[:4], "big") >> 1
