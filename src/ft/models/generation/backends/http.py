"""One request to a server, which may be slow, endless or broken: it takes bounded time and memory."""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from typing import Any

Reply = tuple[int, Message, str]
MOST_BYTES = 64 << 20
"""Of a reply. Nothing that answers one request is as long: a million tokens are some 5 MB."""


class ReplyTooLong(Exception):
    """More came than any answer has."""


def fetch(url: str, data: bytes | None, headers: Mapping[str, str], seconds: float) -> Reply:
    """Status, headers and text of the reply, whatever its status. `seconds` are for all of it.

    Raises OSError or http.client.HTTPException where it did not come whole, and ReplyTooLong. Of a reply that reports
    an error the text may be cut: its status says enough.
    """
    request = urllib.request.Request(url, data, dict(headers))
    try:
        with _opener().open(request, timeout=seconds) as response:
            body = response.read(MOST_BYTES + 1)
            if len(body) > MOST_BYTES:
                raise ReplyTooLong(f"the reply is longer than {MOST_BYTES >> 20} MiB")
            if response.length:  # http.client tells of it only where all of a body was asked for
                raise http.client.IncompleteRead(body, response.length)
            return response.status, response.headers, body.decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        body = b""
        with error, suppress(OSError, http.client.HTTPException):
            body = error.read(1 << 16)
        return error.code, error.headers, body.decode("utf-8", "replace") or str(error.reason)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key on to wherever a redirect points."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_with_deadline(http.client.HTTPConnection), request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_with_deadline(http.client.HTTPSConnection), request, context=ssl.create_default_context())


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect, _Http, _Https)


def _with_deadline(connection_class: Callable[..., http.client.HTTPConnection]) -> Any:
    def connect(host: str, timeout: float, **options: Any) -> http.client.HTTPConnection:
        connection = connection_class(host, timeout=timeout, **options)
        deadline = time.monotonic() + timeout
        connection.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]
        return connection

    return connect


class _Response(http.client.HTTPResponse):
    """A reply that has to be there by the deadline: a socket's own timeout begins anew with each byte."""

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: float, **options: Any):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Until(deadline, sock, self.fp.detach()))


class _Until(io.RawIOBase):
    """The bytes of a socket up to a deadline, in seconds of the monotonic clock."""

    def __init__(self, deadline: float, sock: socket.socket, raw: io.RawIOBase):
        self.deadline, self.sock, self.raw = deadline, sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply did not come whole in time")
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()
