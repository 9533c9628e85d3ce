"""Under a launcher one process leads: the others start what it tells, and end when it ends."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from ft.errors import UserError
from ft.files import digest
from ft.run.distributed import (
    exit_code_of_ranks,
    follow,
    follows,
    has_lost_another,
    is_launched,
    killed_by,
    leading,
    rank_environment,
    single_process_environment,
)

RANK = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture
def launcher(monkeypatch):
    """The store that a launcher keeps, and the environment it gives its processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {**RANK, "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    return store


def test_others_start_each_stage_once_and_end_with_the_leader(launcher, tmp_path):
    jobs = [tmp_path / name for name in ("one.json", "two.json")]
    for job in jobs:
        job.write_text(job.name, encoding="utf-8")
    started: list[tuple[Path, int]] = []

    def start(job: Path, port: int) -> int:
        started.append((job, port))
        return 0

    with ThreadPoolExecutor() as pool:
        other = pool.submit(follow, start)
        with leading() as leader:
            ports = [leader.tell(job) for job in jobs]
        assert other.result(10) == 0
    assert started == list(zip(jobs, ports, strict=True))
    assert len({*ports, launcher.port}) == 3  # each stage meets at a port of its own


def test_others_end_when_the_leader_fails(launcher):
    with ThreadPoolExecutor() as pool:
        other = pool.submit(follow, lambda job, port: 0)
        with pytest.raises(KeyError), leading():
            raise KeyError
        assert other.result(10) == 0


def test_a_stage_that_fails_ends_its_process_with_the_same_code(launcher, tmp_path):
    (tmp_path / "job.json").write_text("{}", encoding="utf-8")
    with leading() as leader:
        leader.tell(tmp_path / "job.json")
        assert follow(lambda job, port: 7) == 7


@pytest.mark.parametrize("seen", [None, "another's"])
def test_a_machine_that_does_not_see_the_folder_says_so(seen, launcher, tmp_path):
    job = tmp_path / "job.json"
    if seen:
        job.write_text(seen, encoding="utf-8")
    order = f'{{"job": "{job}", "digest": "{digest("ours")}", "port": 1}}'
    launcher.set("ft/0", order)
    with pytest.raises(UserError, match=r"this machine does not see what the first one has written. Give `--runs` a"):
        follow(lambda job, port: 0)


def test_only_several_processes_of_a_launcher_follow(launcher, monkeypatch):
    assert is_launched()
    assert follows()
    monkeypatch.setenv("RANK", "0")
    assert not follows()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_launched()


def test_a_process_that_works_alone_knows_of_no_others_and_of_one_gpu():
    left = single_process_environment({**RANK, "MASTER_PORT": "1", "PATH": "p", "CUDA_VISIBLE_DEVICES": "2,3"})
    assert left == {"PATH": "p", "CUDA_VISIBLE_DEVICES": "2", "FT_ALL_GPUS": "2,3"}  # what actors of it may use
    assert single_process_environment({})["CUDA_VISIBLE_DEVICES"] == "0"
    assert single_process_environment({"CUDA_VISIBLE_DEVICES": ""})["CUDA_VISIBLE_DEVICES"] == ""  # none stays none


def test_processes_of_a_stage_meet_at_its_port():
    assert rank_environment({"MASTER_PORT": "1"}, 2) == {"MASTER_PORT": "2", "TORCHELASTIC_USE_AGENT_STORE": "False"}


def test_the_process_that_was_killed_is_named_and_those_ended_after_it_are_not(capsys):
    assert exit_code_of_ranks({0: -signal.SIGTERM, 1: -signal.SIGKILL, 2: 1}, "sft") == 1
    assert capsys.readouterr().err == "sft: process 1 was killed by SIGKILL (out of memory, or from outside)\n"
    assert exit_code_of_ranks({0: 2, 1: -signal.SIGTERM}, "sft") == 2  # what refuses has said why
    assert capsys.readouterr().err == ""
    assert killed_by(signal.SIGSEGV) == "its process was killed by SIGSEGV"


def test_a_process_knows_that_another_one_has_ended(monkeypatch):
    closed = RuntimeError("[…/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:20878")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert has_lost_another(closed)
    assert not has_lost_another(RuntimeError("out of range"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not has_lost_another(closed)  # what closed it was a server
