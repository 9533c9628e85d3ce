"""A page that follows a run (`ft report RUN --watch`), served to this machine alone.

Nothing works while nobody looks: a browser asks, and the page is built again where the run's files have changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from ft import artifacts
from ft.errors import UserError, fail
from ft.files import digest
from ft.report.page import WatchBar, report_page, waiting_page
from ft.report.run import Run
from ft.result import Result
from ft.results.ledger import status

LOOPBACK = "127.0.0.1"
PAUSE = 10  # times as long as a page took to make passes before the next: at most a tenth of a core


@dataclass(frozen=True)
class _BuiltPage:
    """A page, the state of the files it was made from, and when and in how many seconds it was made."""

    text: str
    etag: str
    files: str
    at: float
    seconds: float


class WatchedPage:
    """The page of a run whose results lie in `folder`. Many threads may ask for it."""

    def __init__(self, name: str, folder: Path, read_run: Callable[[], Run]):
        self.name, self.folder, self.read_run = name, folder, read_run
        self._lock = Lock()
        self._built: _BuiltPage | None = None

    def newest(self) -> tuple[str, str]:
        """(HTML, ETag): another tag where, and only where, the page has changed."""
        with self._lock:
            files, now = digest(sorted(self._files()), 16), time.monotonic()
            if self._built is None or (
                files != self._built.files and now >= self._built.at + PAUSE * self._built.seconds
            ):
                text, etag = self._make()
                done = time.monotonic()
                self._built = _BuiltPage(text, etag, files, done, done - now)
            return self._built.text, self._built.etag

    def _make(self) -> tuple[str, str]:
        updated = self._last_update()
        try:
            run = self.read_run()
            state = _state(run)
            bar = WatchBar(state, updated, digest([run.stamp, state, updated], 16))
            return report_page(run, bar), bar.etag
        except (UserError, OSError) as error:  # a folder that is gone, a recipe's data that is
            bar = WatchBar("no report", updated, digest([str(error), updated], 16))
            return waiting_page(self.name, str(error), bar), bar.etag

    def _files(self) -> Iterator[tuple[str, int, int, str]]:
        """What the small files of the results are now, and which results are being made: read without opening one."""
        for file in self._watched():
            try:
                state = file.stat()
            except OSError:
                continue
            yield str(file), state.st_mtime_ns, state.st_size, ""
        for folder in {file.parent for file in self._watched()}:
            if not (folder / artifacts.DONE).exists():
                yield str(folder), 0, 0, status(Result(folder))

    def _watched(self) -> list[Path]:
        return [file for file in self.folder.glob("*/*.json*") if not file.name.startswith(".")]

    def _last_update(self) -> str:
        """'2026-11-22 12:40:07 UTC', or nothing."""
        times = [changed for _, changed, _, state in self._files() if not state]
        return datetime.fromtimestamp(max(times) / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if times else ""


def _state(run: Run) -> str:
    needed = [stage for stage in run.stages if stage.name not in run.not_needed]
    states = [status(stage.result) for stage in needed if stage.state != "absent"]
    if "running" in states:
        return "running"
    if not states:
        return "not begun: ft run starts it"
    if len(states) == len(needed) and set(states) == {"done"}:
        return "finished"
    return f"not running: {states.count('done')} of {len(needed)} stages are done"


class _Server(ThreadingHTTPServer):
    def __init__(self, page: WatchedPage, port: int):
        super().__init__((LOOPBACK, port), _Handler)
        self.page = page
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away in the middle is no error."""


class _Handler(BaseHTTPRequestHandler):
    """GET / and nothing else. The Host header must name this server: a page of elsewhere whose name is resolved
    to this machine (DNS rebinding) would by a browser's rules be allowed to read what this one answers."""

    server: _Server
    server_version, sys_version = "ft", ""
    timeout = 10  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "This page is read at the address that ft printed.")
        elif self.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "There is one page here: /")
        else:
            text, etag = self.server.page.newest()
            known = self.headers.get("If-None-Match") == f'"{etag}"'
            self._answer(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK, "" if known else text, etag)

    def _answer(self, code: HTTPStatus, text: str, etag: str = "") -> None:
        body = text.encode()
        self.send_response(code)
        headers = {
            "Content-Type": f"text/{'html' if etag else 'plain'}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "frame-ancestors 'none'",  # which a page's own policy cannot say
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**headers, **({"ETag": f'"{etag}"'} if etag else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal is for what a person did."""


def serve(page: WatchedPage, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; port 0 takes a free one. `say` gets the address. Raises UserError where the port is
    taken."""
    try:
        server = _Server(page, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise fail("--port", f"{port} cannot be served: {why}", "Leave it out for a free one.") from error
    with server:
        say(f"http://{LOOPBACK}:{server.server_port}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
