"""A page that follows a run: new when its files are, read by this machine's own browser alone."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft import artifacts
from ft.cli import app
from ft.errors import UserError
from ft.files import append_lines, write_json
from ft.report.run import of_folder
from ft.report.watch import WatchedPage, serve
from ft.results.locks import hold_result

Get = Callable[..., HTTPResponse]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage's folder that has logged two steps."""
    folder = tmp_path / "runs" / "mine" / "sft-0123456789ab"
    folder.mkdir(parents=True)
    write_json(folder / artifacts.JOB, {"name": "sft", "kind": "sft"})
    write_json(folder / artifacts.KEY, {"kind": "sft"})
    append_lines(folder / artifacts.METRICS, [{"step": step, "loss": 1.0} for step in (1, 2)])
    return folder


def _page(stage: Path) -> WatchedPage:
    return WatchedPage("mine", stage.parent, lambda: of_folder(stage.parent))


def _served(page: WatchedPage, ask: Callable[[Get], None]) -> None:
    """Serve the page as the command does; `ask` is the browser, and Ctrl-C follows it."""
    main = threading.get_ident()
    errors: list[BaseException] = []

    def browse(address: str) -> None:
        try:
            ask(lambda path="/", **headers: _get(address, path, headers))
        except BaseException as error:
            errors.append(error)
        finally:
            signal.pthread_kill(main, signal.SIGINT)

    serve(page, 0, lambda address: threading.Thread(target=browse, args=(address,)).start())
    if errors:
        raise errors[0]


def _get(address: str, path: str, headers: dict[str, str]) -> HTTPResponse:
    host = address.removeprefix("http://").rstrip("/")
    connection = HTTPConnection(host, timeout=20)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_a_page_is_sent_again_only_when_a_file_of_the_run_has_changed(stage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ft.report.watch.PAUSE", 0)

    def ask(get: Get) -> None:
        first = get()
        tag = first.headers["ETag"]
        assert (first.status, b"not running" in first.read()) == (200, True)
        assert (get(If_None_Match=tag).status, get(If_None_Match=tag).read()) == (304, b"")
        append_lines(stage / artifacts.METRICS, [{"step": 3, "loss": 0.125}])
        newer = get(If_None_Match=tag)
        assert (newer.status, b"0.125" in newer.read()) == (200, True)
        assert get(If_None_Match=newer.headers["ETag"]).status == 304

    _served(_page(stage), ask)


def test_nothing_but_the_page_is_served_and_only_to_the_name_of_this_machine(stage: Path):
    def ask(get: Get) -> None:
        assert get(Host="evil.example").status == 421
        for path in ("/report.html", "/../mine/sft-0123456789ab/metrics.jsonl", "/?x"):
            assert get(path).status == 404
        answer = get()
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert b"connect-src 'self'" in answer.read()

    _served(_page(stage), ask)


def test_the_page_says_whether_the_run_goes_on_and_when_it_is_finished(stage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ft.report.watch.PAUSE", 0)
    page = _page(stage)
    with hold_result(stage.parents[1], stage):
        assert "<b>running</b>, last update <time>" in page.newest()[0]
    assert "<b>not running: 0 of 1 stages are done</b>" in page.newest()[0]
    write_json(stage / artifacts.DONE, {"stage": "sft", "kind": "sft", "numbers": {"steps": 2}})
    assert "<b>finished</b>" in page.newest()[0]


def test_a_run_that_was_deleted_is_told_in_words_and_shown_again_when_it_is_back(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ft.report.watch.PAUSE", 0)
    page = _page(stage)
    whole = page.newest()
    shutil.move(stage.parent, tmp_path / "elsewhere")
    text, etag = page.newest()
    assert "no recipe and no folder of results" in text
    assert etag != whole[1]
    shutil.move(tmp_path / "elsewhere", stage.parent)
    assert page.newest() == whole


def test_a_broken_file_is_named_on_the_page(stage: Path):
    with (stage / artifacts.METRICS).open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    assert "metrics.jsonl:3 is broken" in _page(stage).newest()[0]


def test_a_page_that_takes_long_is_not_made_at_every_change(stage: Path, monkeypatch: pytest.MonkeyPatch):
    page = _page(stage)
    first = page.newest()
    monkeypatch.setattr("ft.report.watch.PAUSE", 1e9)
    append_lines(stage / artifacts.METRICS, [{"step": 3, "loss": 0.125}])
    assert page.newest() == first


def test_a_port_that_is_taken_is_refused_in_words(stage: Path):
    def again(address: str) -> None:
        serve(_page(stage), int(address.rstrip("/").rpartition(":")[2]), lambda _: None)

    with pytest.raises(UserError, match=r"--port: \d+ cannot be served"):
        serve(_page(stage), 0, again)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--to", "x.html"]])
def test_one_run_is_followed_and_no_file_is_written(arguments: list[str]):
    result = CliRunner().invoke(app, ["report", "--watch", *arguments])
    assert isinstance(result.exception, UserError)
