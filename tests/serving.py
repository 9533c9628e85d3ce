"""A server of OpenAI's protocol on this machine, for tests of what asks one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a-key-of-the-test"


class Scripted(ThreadingHTTPServer):
    """Answers the question back in capitals, or what `answer` makes of a request.

    `failures` are (status, headers) it answers with first; after `fails_after` answers it answers with 503. `raw` gives
    the bytes that are sent in the place of an answer, if any.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.refuses = ""
        self.raw: Callable[[dict[str, Any]], bytes | None] | None = None
        self.answer: Callable[[dict[str, Any]], str] | None = None
        self.fails_after: int | None = None
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.keys.add(self.headers["Authorization"])
        if not self.path.endswith("/v1/models"):
            self.reply(404, {"error": "not here"})
        elif self.headers["Authorization"] not in (None, f"Bearer {KEY}"):
            self.reply(401, {"error": {"message": f"wrong key: {self.headers['Authorization']}"}})
        else:
            self.reply(200, {"data": [{"id": "chat"}, {"id": "other"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.keys.add(self.headers["Authorization"])
            self.server.seen.append(asked)
            failure = self.server.failures.pop(0) if self.server.failures else None
            if self.server.fails_after is not None and len(self.server.seen) > self.server.fails_after:
                failure = (503, {})
        text = asked["messages"][-1]["content"]
        raw = self.server.raw(asked) if self.server.raw else None
        if raw is not None:
            self.wfile.write(raw)
            self.close_connection = True
        elif failure:
            self.reply(failure[0], {"error": {"message": "too busy"}}, failure[1])
        elif text == self.server.refuses:
            self.reply(400, {"error": {"message": "it is too long"}})
        else:
            said = self.server.answer(asked) if self.server.answer else f" {text.upper()} "
            choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            if text == "cut":
                choice["finish_reason"] = "length"
            self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 3}})


@contextmanager
def serving() -> Iterator[Scripted]:
    found = Scripted()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()
