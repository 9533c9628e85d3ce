"""`ft plan` says what the engine computes, where, and whether it pays."""

from __future__ import annotations

import pytest

import tiny
from ft.run.engine_plan import describe_engine


@pytest.fixture
def lines(tmp_path, base, monkeypatch):
    monkeypatch.setattr("ft.run.engine_plan.cores", lambda: 4)
    tiny.rows(tmp_path / "rows.jsonl")

    def described(engine, *kinds):
        stages = [tiny.sft(tmp_path / "rows.jsonl") if kind == "sft" else SAMPLE for kind in kinds]
        file = tiny.recipe(tmp_path, stages, model=str(base), engine=engine)
        return describe_engine(tiny.planned(file, tmp_path / "runs"))

    return described


SAMPLE = {"kind": "sample", "data": [{"path": "rows.jsonl"}], "sample": {"rewards": {"answer": 1.0}}}


def test_a_plan_names_stages_place_and_actors(lines):
    found = lines("ray", "sft", "sample")
    assert found[0].startswith("engine: sample on this machine, by 4 actors, each with 1 CPU")
    assert found[1] == "engine: sft in a process of the stage's own, as without it"
    assert "it pays where a stage takes longer than 8 s without it" in found[2]


def test_a_plan_tells_where_ray_does_not_pay(lines):
    assert "no faster" in lines({"kind": "ray", "cpus": 4}, "sample")[-1]
    assert lines("ray", "sft") == ["engine: no pending stage is computed by Ray; leave it out"]
    assert lines("local", "sample") == []


def test_of_a_cluster_a_plan_says_what_it_knows_without_asking_it(lines):
    found = lines({"kind": "ray", "address": "10.0.0.1:6379"}, "sample")
    assert "on the cluster at 10.0.0.1:6379, by as many actors as there is room for" in found[0]
    assert "more GPUs than this machine" in found[-1]
