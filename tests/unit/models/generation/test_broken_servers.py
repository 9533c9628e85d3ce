"""Whatever a server sends: the request is tried again or refused in a line, in bounded time and memory."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ft.errors import UserError
from ft.models.generation.backends import BackendOptions, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.backends import http as fetching
from ft.models.generation.sampling import Sampling

KEY = "key-of-the-test"
Script = Callable[[int], Iterator[bytes]]


def reply(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + body


def completion(content: str = '"yes"', usage: str = '{"completion_tokens": 3}') -> bytes:
    choice = f'{{"message": {{"content": {content}}}, "finish_reason": "stop"}}'
    return reply(f'{{"choices": [{choice}], "usage": {usage}}}'.encode())


MODELS = reply(b'{"data": [{"id": "m"}]}')


@contextmanager
def server(script: Script) -> Iterator[tuple[str, list[int]]]:
    """Its address, and the numbers of the questions it was asked; `script` gives the bytes that answer each."""
    stopped, questions = threading.Event(), []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(1 << 16)
            if request.startswith(b"GET"):
                self.request.sendall(MODELS)
                return
            questions.append(len(questions))
            try:
                for part in script(len(questions) - 1):
                    self.request.sendall(part)
                    if stopped.wait(0.02 if len(part) == 1 else 0):
                        return
            except OSError:
                return
            stopped.wait(0 if part.endswith(b"}") else 5)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1", questions
        stopped.set()
        listening.shutdown()


def ask(url: str, retries: int = 1, timeout: float = 0.5, key_env: str | None = None) -> dict[str, object]:
    options = BackendOptions("server", url, "m", key_env, retries=retries, timeout=timeout, wait=0.0)
    batch = requests([("0", [{"role": "user", "content": "hello"}], [])])
    worker = load_worker(WorkerSpec(options))
    return dict(answers_by_key(worker, batch, Sampling(), lambda finished, tokens: None))["0"]


def failure(url: str, **options: object) -> str:
    """Why the request came to nothing, which must be one line."""
    entry = ask(url, **options)  # type: ignore[arg-type]
    assert (entry["text"], entry["tokens"], entry["ended"]) == (None, 0, False)
    assert str(entry["failed"]).count("\n") == 0
    return str(entry["failed"])


def drops(part: bytes) -> Script:
    """The first answer is only this; the next is whole."""
    return lambda number: iter([part] if number == 0 else [completion()])


BROKEN = {
    "an error whose body ends early": reply(b'{"error"', "500 Oops", 400),
    "an error whose body stalls": reply(b"", "503 Busy", 400),
    "an answer that ends early": reply(b'{"choices": [', length=400) + b"}",
    "an answer that stalls": reply(b'{"choices": [', length=400),
    "no status": b"}",
}


@pytest.mark.parametrize("part", BROKEN.values(), ids=BROKEN)
def test_an_unfinished_reply_is_asked_for_again(part: bytes):
    with server(drops(part)) as (url, questions):
        assert ask(url) == {"text": "yes", "tokens": 3, "ended": True}
    assert len(questions) == 2


def trickle(number: int) -> Iterator[bytes]:
    yield reply(b"", length=100_000)
    for _ in range(1_000):
        yield b" "


def trickling_headers(number: int) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX: "
    for _ in range(1_000):
        yield b"x"


@pytest.mark.parametrize("script", [trickle, trickling_headers])
def test_a_reply_that_comes_byte_by_byte_ends_at_the_deadline(script: Script):
    with server(script) as (url, _):
        assert re.search(r"timed out|in time", failure(url, retries=0, timeout=0.3))


def test_an_endless_reply_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "MOST_BYTES", 1 << 20)

    def endless(number: int) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield b"x" * 65_536

    with server(endless) as (url, questions):
        assert "longer than 1 MiB" in failure(url, timeout=20)
    assert len(questions) == 1


@pytest.mark.parametrize("tokens", ['"many"', "NaN", "1e999", "-3", "null", "true", "[1]"])
def test_odd_counts_of_tokens_are_no_count(tokens: str):
    with server(lambda n: iter([completion(usage=f'{{"completion_tokens": {tokens}}}')])) as (url, _):
        assert ask(url) == {"text": "yes", "tokens": 0, "ended": True}


def test_half_a_character_is_replaced_as_every_decoder_does():
    with server(lambda n: iter([completion('"a\\ud800b"')])) as (url, _):
        assert ask(url)["text"] == "a\ufffdb"


@pytest.mark.parametrize(
    "body", [b"[" * 50_000 + b"}", b"<html>}", b"\xff\xfe}", b'{"choices": 5}', b'{"choices": []}']
)
def test_what_is_no_answer_is_a_failure_in_a_line(body: bytes):
    with server(lambda n: iter([reply(body)])) as (url, questions):
        assert failure(url).startswith(url)
    assert len(questions) == 1


@pytest.mark.parametrize("data", ["null", '["m"]', "{}", '[{"id": null}]', "7", '"m"'])
def test_a_list_of_models_that_names_none_is_passed_over(data: str, monkeypatch: pytest.MonkeyPatch):
    """Ollama says null where it holds no model yet."""
    monkeypatch.setitem(globals(), "MODELS", reply(f'{{"data": {data}}}'.encode()))
    with server(lambda n: iter([completion()])) as (url, _):
        assert ask(url)["text"] == "yes"


@pytest.mark.parametrize(
    "part",
    [
        reply(b"", f"401 no {KEY}"),
        reply(f'{{"error": {{"message": "\\u001b[2J no {KEY}"}}}}'.encode(), "400 Bad"),
        f"HTTP/1.1 {KEY}\r\n\r\n}}".encode(),
        reply(f'{{"choices": "{KEY}\\u009b"}}'.encode()),
    ],
)
def test_neither_the_key_nor_an_escape_of_a_server_is_shown(part: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEST_SERVER", KEY)
    with server(lambda n: iter([part])) as (url, _):
        try:
            shown = failure(url, retries=0, key_env="TEST_SERVER")
        except UserError as refused:  # a wrong key ends the work
            shown = str(refused)
    assert KEY not in shown
    assert "***" in shown
    assert not {"\x1b", "\x9b"} & {*shown}


def test_a_key_that_no_header_can_hold_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEST_SERVER", f"{KEY}\nX: y")
    with pytest.raises(UserError, match="TEST_SERVER holds characters") as refused:
        ask("http://127.0.0.1:9/v1", key_env="TEST_SERVER")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("url", ["http://h:99999/v1", "http://[::1/v1", "http://a b/v1", "http://h:x/v1"])
def test_an_address_that_no_request_can_be_sent_to_is_refused(url: str):
    with pytest.raises(ValueError, match="base_url is no address"):
        BackendOptions("server", url, "m")
