"""What a server has answered is never asked again, whatever kills the process that asked, counted at the server."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ft.files import read_lines
from ft.models.generation.backends import BackendOptions, WorkerRequest, WorkerSpec, answer_requests, load_worker
from ft.models.generation.executor import Entry, Loader
from ft.models.generation.resumable import compute_entries
from ft.models.generation.sampling import Sampling
from serving import Scripted, serving

IN_FLIGHT = 4


def ask_all(server: Scripted, count: int, file: Path) -> dict[str, Entry]:
    options = BackendOptions("server", server.url, "chat", wait=0.0, retries=0, concurrency=IN_FLIGHT)

    questions = [WorkerRequest(f"q{n}", [{"role": "user", "content": f"q{n}"}], []) for n in range(count)]
    worker, work = Loader(load_worker, WorkerSpec(options)), partial(answer_requests, sampling=Sampling())
    return compute_entries(questions, worker, work, file, None, "test: answers", accepts_failures=True)


def killed(work: Callable[[], object], server: Scripted, at_request: int) -> None:
    """Do the work in a process of its own, which the server kills as it gets that request."""
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)

    def answer(asked: dict[str, Any]) -> str:
        if len(server.seen) == at_request:
            os.kill(pid, signal.SIGKILL)
        return "an answer"

    server.answer = answer
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def asked_by_question(server: Scripted) -> Counter[str]:
    return Counter(asked["messages"][-1]["content"] for asked in server.seen)


def test_ten_kills_ask_again_only_what_was_under_way(tmp_path: Path):
    file, kept = tmp_path / "answers.jsonl", set[str]()
    with serving() as server:
        for _ in range(10):
            before = asked_by_question(server)
            killed(lambda: ask_all(server, 80, file), server, at_request=len(server.seen) + 6)
            again = asked_by_question(server) - before
            assert not kept & set(again)
            kept = {line["key"] for line in read_lines(file)}
        before, server.answer = asked_by_question(server), None
        assert len(ask_all(server, 80, file)) == 80
    asked = asked_by_question(server)
    assert not kept & set(asked - before)
    assert len(asked) == 80
    assert sum(asked.values()) <= 80 + 10 * IN_FLIGHT


def test_what_failed_is_counted_and_tried_again_by_the_next_run_alone(tmp_path: Path):
    file = tmp_path / "answers.jsonl"
    with serving() as server:
        server.refuses = "q3"
        first = ask_all(server, 6, file)
        assert [key for key, entry in first.items() if "failed" in entry] == ["q3"]
        assert {line["key"] for line in read_lines(file)} == {"q0", "q1", "q2", "q4", "q5"}
        server.seen.clear()
        server.refuses = ""
        again = ask_all(server, 6, file)
    assert dict(asked_by_question(server)) == {"q3": 1}
    assert [entry["text"] for entry in again.values()].count(None) == 0
