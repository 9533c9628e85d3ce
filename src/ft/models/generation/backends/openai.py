"""Answers from a server that speaks OpenAI's protocol: `vllm serve` and many others. Standard library only."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from email.message import Message as Headers
from email.utils import parsedate_to_datetime
from typing import Any

from ft.console import Terminal
from ft.data.formats.messages import Message
from ft.errors import Problem, UserError, fail
from ft.models.generation.backends import (
    Columns,
    WorkerSpec,
    answer,
    failure,
    more_parameters,
    refuse_beams,
    request_seed,
)
from ft.models.generation.backends.estimate import Estimate
from ft.models.generation.backends.http import ReplyTooLong, fetch
from ft.models.generation.sampling import Sampling
from ft.printable import printable_line

log = logging.getLogger(__name__)

MAX_WAIT = 60.0  # seconds between two tries
LONG_WAIT = 8.0  # seconds after which people wonder what is going on
FAILURES_IN_A_ROW = 8
"""Or as many as are under way at once: a server of which nothing else comes is not asked for all the rest."""
TEMPORARY = (408, 409, 425, 429)  # HTTP statuses that may pass, and everything from 500
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
ADDRESS = "backend.base_url must lead to a server of OpenAI's protocol; most end with /v1."


class _TemporaryFailure(Exception):
    """A failure that may be gone at the next try; `wait` is how many seconds the server asks for."""

    def __init__(self, text: str, wait: float = 0.0):
        super().__init__(text)
        self.wait = wait


class _RequestFailed(UserError):
    """One request has no answer, which need not mean that others have none."""


class ServerWorker:
    """Each request carries a seed of its own. Whether the same seed gives the same answer again is up to the server.

    A request that fails is an answer without text. Where so many fail one after the other that the server answers
    nothing any more, or the key or address is wrong, UserError ends the work; answers that came are kept.
    """

    def __init__(self, spec: WorkerSpec):
        self.options = spec.options
        self.estimate = Estimate(0, 0, 0)
        self.url = (self.options.base_url or "").rstrip("/")
        self.key = self._key()
        self.stopped = threading.Event()
        self._serves_model()

    def __call__(self, batch: Columns, sampling: Sampling) -> Iterator[Columns]:
        refuse_beams(sampling, "a server")
        self._limit(batch["messages"], sampling)
        rows = zip(batch["key"], batch["messages"], strict=True)
        pool = ThreadPoolExecutor(self.options.concurrency)
        under_way: dict[Future[Columns], str] = {}

        def ask(count: int) -> None:
            for key, messages in itertools.islice(rows, count):
                under_way[pool.submit(self._answer, key, messages, sampling)] = key

        failures_in_a_row = 0
        try:
            ask(self.options.concurrency)
            while under_way:
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    key = under_way.pop(future)
                    part = self._part(key, future, failures_in_a_row)
                    failures_in_a_row = failures_in_a_row + 1 if part["failed"][0] else 0
                    yield part
                    # Only now, when who reads has written it down: a kill loses no more than what is under way.
                    ask(1)
        finally:  # after an error or Ctrl-C: nothing new is asked, and nobody waits for a further try
            self.stopped.set()
            pool.shutdown(cancel_futures=True)
            self.stopped.clear()

    def _part(self, key: str, future: Future[Columns], failures_before: int) -> Columns:
        """The answer, or why there is none. Raises UserError where none comes any more."""
        try:
            return future.result()
        except _RequestFailed as failed:
            if failures_before + 1 >= max(FAILURES_IN_A_ROW, self.options.concurrency):
                raise UserError(failed.problems) from failed
            return failure(key, str(failed))

    def _limit(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> None:
        """Say what is about to be asked, before the first request. Raises UserError where it is more than allowed."""
        self.estimate = self.estimate.with_requests(prompts, sampling.max_new_tokens)
        Terminal(file=sys.stderr).print(f"{self.url}: {self.estimate.describe(self.options)}")
        for name, most, count in (
            ("max_requests", self.options.max_requests, self.estimate.requests),
            ("max_tokens", self.options.max_tokens, self.estimate.tokens),
        ):
            if most is not None and count > most:
                what = f"{self.estimate.describe(self.options)} are more than {name}: {most}"
                raise fail(f"backend.{name}", what, "Nothing was asked. Raise it, or name fewer rows.")

    def _answer(self, key: str, messages: Sequence[Message], sampling: Sampling) -> Columns:
        body = {
            "model": self.options.model,
            "messages": [{"role": m["role"], "content": m["content"]} for m in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": request_seed(sampling, key),
            **more_parameters(sampling),
        }
        response = self._request_until_answered("/chat/completions", body)
        try:
            choice = response["choices"][0]
            # JSON can hold half a character, which no file can
            text = HALF_CHARACTER.sub("\ufffd", choice["message"]["content"] or "").strip()
            return answer(key, text, _count(response.get("usage")), choice["finish_reason"] == "stop")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            what = f"the answer is no chat completion: {self._server_text(json.dumps(response))}"
            raise self._failed("/chat/completions", what, ADDRESS) from error

    def _key(self) -> str | None:
        name = self.options.key_env
        if name is None:
            return None
        if not os.environ.get(name):
            raise fail("backend.key_env", f"the environment variable {name} is not set", f"export {name}=…")
        key = os.environ[name].strip()
        if not (key.isascii() and key.isprintable()):
            what = f"the environment variable {name} holds characters that no key has"
            raise fail("backend.key_env", what, "Set it anew.")
        return key

    def _serves_model(self) -> None:
        """A wrong name, address or key is found before the first question."""
        response = self._request_until_answered("/models", None)
        models = response.get("data") if isinstance(response, dict) else None
        entries = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
        names = [entry["id"] for entry in entries if isinstance(entry.get("id"), str)]
        if names and self.options.model not in names:
            what = f"the server has no model '{self.options.model}'"
            raise fail(self.url, what, f"It serves: {', '.join(names[:8])}. Set backend.model.")

    def _request_until_answered(self, path: str, body: dict[str, Any] | None) -> Any:
        """The answer to a request, tried again while what is wrong may pass. Raises UserError when it does not."""
        wait = self.options.wait
        for left in range(self.options.retries, -1, -1):
            try:
                return self._request(path, body)
            except _TemporaryFailure as failed:
                if left == 0 or self.stopped.is_set():
                    tries = f"after {self.options.retries + 1} tries"
                    fix = "Is it up, and backend.base_url right? What is answered is kept; the same command goes on."
                    raise self._failed("", f"no answer {tries}: {failed}", fix) from failed
                seconds = min(max(wait, failed.wait), MAX_WAIT)
                level = logging.WARNING if seconds >= LONG_WAIT else logging.INFO
                log.log(level, "%s: %s; tried again in %.0f s", self.url, failed, seconds)
                self.stopped.wait(seconds)
                wait *= 2
        raise AssertionError("the loop returns or raises")

    def _request(self, path: str, body: dict[str, Any] | None) -> Any:
        request_headers = {"Content-Type": "application/json"}
        if self.key:
            request_headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            status, headers, text = fetch(self.url + path, data, request_headers, self.options.timeout)
        except (OSError, http.client.HTTPException) as error:  # no connection, a broken one, or none in time
            text = str(getattr(error, "reason", error)) or type(error).__name__
            raise _TemporaryFailure(self._server_text(text)) from error
        except ReplyTooLong as error:
            raise self._failed(path, str(error), ADDRESS) from error
        if status >= 300:
            raise self._failure(path, status, headers, text)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._failed(path, "what came back is no JSON", ADDRESS) from error

    def _failed(self, path: str, what: str, fix: str) -> _RequestFailed:
        return _RequestFailed([Problem(self.url + path, what, fix)])

    def _failure(self, path: str, status: int, headers: Headers, text: str) -> UserError | _TemporaryFailure:
        message = f"HTTP {status}: {self._server_text(text)}"
        if status in TEMPORARY or status >= 500:
            return _TemporaryFailure(message, seconds_asked_for(headers.get("Retry-After", "")))
        fixes = {
            404: ADDRESS,
            401: "Name the environment variable that holds the key: `backend: {key_env: …}`.",
        }
        if self.options.key_env:
            fixes[401] = f"The key in {self.options.key_env} is not the server's: set the variable anew."
        fix = fixes.get(401 if status == 403 else status, "The request is not tried again.")
        if status < 400 or status in (401, 403, 404):  # so it will be with all that follow
            return fail(self.url + path, message, fix)
        return self._failed(path, message, fix)

    def _server_text(self, text: str) -> str:
        """The beginning of what a server said, without the key, which some repeat."""
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        return printable_line(text.replace(self.key, "***") if self.key else text, 300)


def seconds_asked_for(retry_after: str) -> float:
    """What a `Retry-After` header asks for, in seconds or as a date (RFC 9110, 10.2.3); 0 where it says nothing."""
    if retry_after.isdecimal():
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        date = parsedate_to_datetime(retry_after)
        return max(0.0, date.timestamp() - time.time())
    return 0.0


def _count(usage: object) -> int:
    """Tokens of the answer; 0 where the server does not count them, or not in whole numbers."""
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if type(tokens) is int and tokens > 0 else 0
