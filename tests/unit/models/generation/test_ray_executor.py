"""Ray for real, on this machine: what actors compute is what one process computes, whatever ends them on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ft.encode.conversation import Renderer
from ft.errors import UserError, fail
from ft.models.generation.backends import WorkerRequest, WorkerSpec, answer_requests, load_worker
from ft.models.generation.executor import Entry, InProcess, Loader, Tick
from ft.models.generation.ray_executor import RayExecutor
from ft.models.generation.ray_reaper import ray_processes
from ft.models.generation.resumable import compute_entries
from ft.models.generation.sampling import Sampling
from ft.models.processor import tokenizer_of
from ft.recipe.engine import EngineOptions

pytestmark = [  # found and not imported: Ray reads its environment as it is imported
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'ft[ray]'"),
]


@dataclass(frozen=True)
class Number:
    value: int
    deaths: Path | None = None  # where the one actor that ends with it says so

    @property
    def key(self) -> str:
        return str(self.value)


def squaring(model: int, batch: Sequence[Number], tick: Tick) -> Iterator[tuple[str, Entry]]:
    for number in batch:
        if number.deaths:
            number.deaths.mkdir(exist_ok=True)
            if not list(number.deaths.iterdir()):
                (number.deaths / str(os.getpid())).touch()
                os._exit(1)
        if number.value == 13:
            raise ZeroDivisionError("bad luck")
        if number.value == 99:
            raise fail("row 99", "is refused")
        yield number.key, {"square": number.value**2, "model": model}
    tick(len(batch), 0)


def squares(file: Path, numbers: Sequence[Number]) -> dict[str, Entry]:
    return compute_entries(numbers, Loader(int, "7"), squaring, file, 4, "test: numbers", accepts_failures=True)


@pytest.fixture
def by_ray(engine, monkeypatch):
    monkeypatch.setattr("ft.models.generation.executor._executors", [engine])


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Two actors for all tests here: to start Ray takes seconds."""
    folder = tmp_path_factory.mktemp("stage")
    with RayExecutor(EngineOptions("ray", actors=2), folder, "recipe.yaml:1") as engine:
        engine.cluster.start()
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which actors cannot import
        yield engine
    assert list((folder / "ray-logs").glob("raylet*"))
    assert ray_processes(str(engine.cluster.temporary)) == set()


@pytest.mark.usefixtures("by_ray")
def test_actors_leave_the_file_that_one_process_leaves(tmp_path, monkeypatch):
    numbers = [Number(value) for value in range(100, 130)]
    found = squares(tmp_path / "by-ray.jsonl", numbers)
    monkeypatch.setattr("ft.models.generation.executor._executors", [InProcess()])
    assert squares(tmp_path / "here.jsonl", numbers) == found
    assert (tmp_path / "by-ray.jsonl").read_bytes() == (tmp_path / "here.jsonl").read_bytes()


@pytest.mark.usefixtures("by_ray")
def test_an_actor_that_ends_loses_nothing(tmp_path):
    numbers = [Number(n, tmp_path / "deaths" if n == 6 else None) for n in range(12)]
    found = squares(tmp_path / "numbers.jsonl", numbers)
    assert [entry["square"] for entry in found.values()] == [n**2 for n in range(12)]
    lines = (tmp_path / "numbers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == [str(n) for n in range(12)]
    assert len(list((tmp_path / "deaths").iterdir())) == 1


@pytest.mark.usefixtures("by_ray")
def test_errors_mean_the_same_as_without_ray(tmp_path):
    found = squares(tmp_path / "numbers.jsonl", [Number(n) for n in range(10, 16)])
    assert found["13"] == {"failed": "ZeroDivisionError: bad luck"}
    assert found["12"]["square"] == 144
    with pytest.raises(ZeroDivisionError, match="bad luck"):
        squares(tmp_path / "alone.jsonl", [Number(13)])
    with pytest.raises(UserError, match=r"^row 99: is refused\.$"):
        squares(tmp_path / "refused.jsonl", [Number(99)])


@pytest.mark.usefixtures("by_ray")
def test_an_actor_that_ran_out_of_memory_loses_nothing(tmp_path, monkeypatch):
    import ray

    get, errors = ray.get, [ray.exceptions.OutOfMemoryError("Memory on the node was 23 GB used of 24 GB")]
    monkeypatch.setattr(ray, "get", lambda *of: fail_with(errors.pop()) if errors else get(*of))
    found = squares(tmp_path / "numbers.jsonl", [Number(n) for n in range(100, 108)])
    assert [entry["square"] for entry in found.values()] == [n**2 for n in range(100, 108)]
    assert not errors


def fail_with(error: Exception) -> None:
    raise error


@pytest.mark.usefixtures("by_ray")
def test_a_cluster_without_a_node_that_computes_ends_the_run_with_words(engine, monkeypatch):
    monkeypatch.setattr("ft.models.generation.ray_cluster.SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr("ft.models.generation.ray_cluster.SILENCE", 0)
    engine.cluster.check_alive()
    monkeypatch.setattr("ray.nodes", list)
    with pytest.raises(UserError, match=r"the node .* is gone\. What is computed is kept\."):
        engine.cluster.check_alive()


def test_nothing_listens_beyond_loopback(engine):
    own = {os.getpid()} | {process for process, _ in ray_processes(str(engine.cluster.temporary))}
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ports = [line.split()[3] for line in listening if any(f"pid={process}," in line for process in own)]
    assert len(ports) > 3
    assert [port for port in ports if "127.0.0.1" not in port and "[::1]" not in port] == []


@pytest.mark.usefixtures("by_ray")
def test_a_models_answers_are_the_bytes_of_one_process(tmp_path, base, monkeypatch):
    renderer = Renderer(tokenizer_of(None, base, None))
    conversations = [[{"role": "user", "content": text}] for text in ("sky?", "a snow?", "the grass?")]
    asked = [WorkerRequest(str(n), one, renderer.prompt(one)) for n, one in enumerate(conversations)]
    worker = Loader(load_worker, WorkerSpec(folder=base, batch_size=4))
    work = partial(answer_requests, sampling=Sampling(8, temperature=1.0))
    files = [tmp_path / name for name in ("by-ray.jsonl", "here.jsonl")]
    compute_entries(asked, worker, work, files[0], 16, "test: answers")
    monkeypatch.setattr("ft.models.generation.executor._executors", [InProcess()])
    compute_entries(asked, worker, work, files[1], 16, "test: answers")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_text(encoding="utf-8").count("\n") == 3
