"""`engine:` says where inference is computed; it changes no result."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tiny
from ft.errors import UserError
from ft.recipe.engine import EngineOptions
from ft.recipe.job import Job

SAMPLE = {"kind": "sample", "data": [{"path": "rows.jsonl"}], "sample": {"rewards": {"answer": 1.0}}}


def planned(folder, base, **keys):
    tiny.rows(folder / "rows.jsonl")
    return tiny.planned(tiny.recipe(folder, [SAMPLE], model=str(base), **keys), folder / "runs")


def test_an_engine_names_no_other_result(tmp_path, base):
    without = planned(tmp_path, base).stages[0].fingerprint
    there = planned(tmp_path, base, engine={"kind": "ray", "actors": 3})
    assert there.stages[0].fingerprint == without
    assert there.recipe.engine == EngineOptions("ray", actors=3)
    assert planned(tmp_path, base, engine="ray").recipe.engine == EngineOptions("ray")


def test_a_stage_is_given_the_engine(tmp_path, base):
    there = planned(tmp_path, base, engine={"kind": "ray", "address": "10.0.0.1:6379"})
    file = there.job(there.stages[0]).write()
    assert Job.read(file).engine == EngineOptions("ray", "10.0.0.1:6379")


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ("slurm", "kind is 'slurm'. Write one of: local, ray"),
        ({"kind": "ray", "actors": 0}, "actors is 0; it must be at least 1"),
        ({"kind": "local", "actors": 2}, "are for kind: ray"),
        ({"kind": "ray", "nodes": 2}, "EngineOptions has no field 'nodes'|has no key 'nodes'"),
    ],
)
def test_what_is_no_engine_is_refused_at_its_line(tmp_path, base, engine, complaint):
    with pytest.raises(UserError, match=complaint):
        planned(tmp_path, base, engine=engine)


def test_the_command_line_names_another_engine():
    written = EngineOptions("ray", "10.0.0.1:6379", actors=4, gpus=0.5)
    assert written.with_engine("ray") == written
    assert written.with_engine("ray=10.0.0.2:1") == replace(written, address="10.0.0.2:1")
    assert written.with_engine("local") == EngineOptions()
    for words in ("ray=", "local=1", "spark", ""):
        with pytest.raises(ValueError, match="Write local, ray or ray=ADDRESS"):
            written.with_engine(words)
