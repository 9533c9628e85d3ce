"""The server backend against a real server on this machine: what it sends, and what it does when it is refused."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from ft.encode.conversation import Renderer
from ft.errors import UserError
from ft.models.generation.backends import BackendOptions, WorkerSpec, answers_by_key, load_worker, requests
from ft.models.generation.backends.openai import seconds_asked_for
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of
from serving import KEY, Scripted, serving
from wording import Like

SAMPLING = Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9, seed=1)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as found:
        yield found


def options(server: Scripted, **given: Any) -> BackendOptions:
    return BackendOptions(**{"kind": "server", "base_url": server.url, "model": "chat", "wait": 0.0, **given})


def answers(asked: BackendOptions, *texts: str) -> dict[str, dict[str, Any]]:
    """Answers by text; the key of each question is its place."""
    batch = requests((str(n), [{"role": "user", "content": text}], []) for n, text in enumerate(texts))
    worker = load_worker(WorkerSpec(asked))
    found = dict(answers_by_key(worker, batch, SAMPLING, lambda finished, tokens: None))
    return {text: found[str(n)] for n, text in enumerate(texts)}


def test_every_question_gets_its_own_answer(server):
    texts = [f"q{n}" for n in range(20)]
    found = answers(options(server, concurrency=4), *texts)
    assert {text: entry["text"] for text, entry in found.items()} == {text: text.upper() for text in texts}
    assert found["q0"] == {"text": "Q0", "tokens": 3, "ended": True}


def test_a_request_says_what_is_wanted_and_each_has_a_seed_of_its_own(server):
    answers(options(server), "a", "b")
    sent = {asked["messages"][0]["content"]: asked for asked in server.seen}
    seeds = [sent[name].pop("seed") for name in ("a", "b")]
    message = {"role": "user", "content": "a"}
    expected = {"model": "chat", "messages": [message], "temperature": 0.7, "top_p": 0.9, "max_tokens": 9}
    assert sent["a"] == expected
    assert len(set(seeds)) == 2
    server.seen.clear()
    answers(options(server), "a")
    assert server.seen[0]["seed"] == seeds[0]


def test_an_answer_that_was_cut_did_not_end(server):
    assert answers(options(server), "cut")["cut"] == {"text": "CUT", "tokens": 3, "ended": False}


def test_what_may_pass_is_tried_again(server):
    server.failures = [(500, {}), (429, {"Retry-After": "0"}), (503, {})]
    assert answers(options(server), "a")["a"]["text"] == "A"
    assert len(server.seen) == 4


def test_a_server_says_how_long_to_wait_in_seconds_or_by_a_date():
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    assert seconds_asked_for("7") == 7
    assert 55 < seconds_asked_for(in_a_minute) <= 60
    assert [seconds_asked_for(text) for text in (formatdate(0, usegmt=True), "", "soon", "-3", "1e999")] == [0] * 5


def test_a_server_that_does_not_recover_is_told_with_what_it_said(server):
    server.failures = [(503, {})] * 9
    failed = answers(options(server, retries=2), "a")["a"]["failed"]
    assert len(server.seen) == 3
    assert failed == Like(f"{server.url}: … 3 tries … 503 … too busy … backend.base_url … same command …")


def test_what_a_server_refuses_is_not_tried_again_and_costs_no_other_answer(server):
    server.refuses = "long"
    found = answers(options(server, concurrency=1), "long", "b", "c")
    assert found["long"]["failed"] == Like(f"{server.url}/chat/completions: HTTP 400: it is too long. …")
    assert [found[text]["text"] for text in ("b", "c")] == ["B", "C"]
    assert [asked["messages"][0]["content"] for asked in server.seen].count("long") == 1


def test_a_server_that_answers_nothing_any_more_ends_the_work(server):
    server.fails_after = 2
    with pytest.raises(UserError, match="HTTP 503: too busy"):
        answers(options(server, retries=0, concurrency=1), *(f"q{n}" for n in range(40)))
    assert len(server.seen) < 20


def test_what_will_be_asked_is_told_and_limited_before_the_first_request(server, capsys):
    answers(options(server, price=[1000.0, 10_000.0]), "abcd" * 25, "abcd" * 25)
    told = "2 requests with about 58 tokens of prompts and at most 18 of answers, which cost at most 0.24"
    assert told in " ".join(capsys.readouterr().err.split())
    server.seen.clear()
    with pytest.raises(UserError, match=r"backend.max_requests: 2 requests .* are more than max_requests: 1"):
        answers(options(server, max_requests=1), "a", "b")
    with pytest.raises(UserError, match=r"backend.max_tokens: .* are more than max_tokens: 26"):
        answers(options(server, max_tokens=26), "a", "b")
    assert server.seen == []
    assert len(answers(options(server, max_requests=2, max_tokens=27), "a", "b")) == 2


def test_a_server_that_is_not_there_is_told(server):
    """Before the first question: the list of models does not come."""
    gone = options(server, base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UserError, match=r"127.0.0.1:9/v1: no answer after 1 tries: .*refused"):
        answers(gone, "a")


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    answers(options(server, key_env="MY_KEY"), "a")
    assert server.keys == {f"Bearer {KEY}"}


def test_a_redirect_does_not_carry_the_key_away(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving() as other:
        server.failures = [(302, {"Location": f"{other.url}/models"})]
        with pytest.raises(UserError, match="HTTP 302"):
            answers(options(server, key_env="MY_KEY"), "a")
        assert other.keys == set()


def test_without_a_variable_no_key_is_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers(options(server), "a")
    assert server.keys == {None}


def test_a_wrong_key_names_the_variable_and_is_not_repeated(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "wrong-one")
    with pytest.raises(UserError) as refused:
        answers(options(server, key_env="MY_KEY"), "a")
    said = "HTTP 401: wrong key: Bearer ***. The key in MY_KEY is not the server's: set the variable anew."
    assert str(refused.value) == f"{server.url}/models: {said}"
    assert server.seen == []


def test_a_variable_that_is_not_set_is_told(server, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError) as refused:
        answers(options(server, key_env="MY_KEY"), "a")
    assert str(refused.value) == "backend.key_env: the environment variable MY_KEY is not set. export MY_KEY=…"


def test_a_model_the_server_does_not_have_is_told_before_the_first_question(server):
    with pytest.raises(UserError) as refused:
        answers(options(server, model="chta"), "a")
    expected = f"{server.url}: the server has no model 'chta'. It serves: chat, other. Set backend.model."
    assert str(refused.value) == expected
    assert server.seen == []


def test_an_address_that_leads_elsewhere_is_told(server):
    with pytest.raises(UserError, match=r"HTTP 404: not here\. backend.base_url must lead to"):
        answers(options(server, base_url=server.url.removesuffix("/v1")), "a")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"kind": "server", "model": "chat"}, "base_url is missing"),
        ({"kind": "server", "base_url": "http://a/v1"}, "model is missing"),
        ({"base_url": "http://a/v1"}, "base_url is for kind: server"),
        ({"kind": "server", "model": "chat", "base_url": "localhost:8000"}, "base_url is no address"),
        ({"kind": "server", "model": "chat", "base_url": "http://me:secret@a/v1"}, "more than an address"),
        ({"kind": "server", "model": "chat", "base_url": "http://a/v1", "key_env": "sk-123"}, "key_env is no name"),
    ],
)
def test_a_backend_that_cannot_work_is_refused(given, what):
    with pytest.raises(ValueError, match=what) as refused:
        BackendOptions(**given)
    assert "secret" not in str(refused.value)
    assert "sk-123" not in str(refused.value)


def test_vllm_that_is_not_installed_is_told_with_what_to_do():
    with pytest.raises(UserError) as refused:
        load_worker(WorkerSpec(BackendOptions(kind="vllm")))
    expected = "backend.kind: vLLM is not installed. Install it beside ft (`pip install vllm`), or write "
    assert str(refused.value) == expected + "`backend: {kind: transformers}`."


def test_a_worker_made_from_a_pickled_spec_gives_the_same_answers_in_every_batch(base):
    """What another process or machine would do: the spec is plain values, and batches may be cut anywhere."""
    spec = pickle.loads(pickle.dumps(WorkerSpec(folder=base)))
    renderer = Renderer(tokenizer_of(None, base, None))
    messages = [[{"role": "user", "content": text}] for text in ("sky?", "and the sea?", "hi")]
    rows = [(str(n), asked, renderer.prompt(asked)) for n, asked in enumerate(messages)]
    whole = dict(answers_by_key(load_worker(spec), requests(rows), SAMPLING, lambda finished, tokens: None))
    worker = load_worker(WorkerSpec(folder=base))
    parts = [dict(answers_by_key(worker, requests([row]), SAMPLING, lambda finished, tokens: None)) for row in rows]
    assert {key: entry for part in parts for key, entry in part.items()} == whole
    assert set(whole) == {"0", "1", "2"}


def test_a_prompt_that_does_not_fit_has_no_text(base):
    long = [{"role": "user", "content": "a" * 3000}]
    batch = requests([("long", long, [1] * 3000)])
    found = dict(answers_by_key(load_worker(WorkerSpec(folder=base)), batch, SAMPLING, lambda finished, tokens: None))
    assert found == {"long": {"text": None, "tokens": 0, "ended": False}}
