"""Rounds made for real: the rule stops them, what follows takes the last, and a second run has nothing to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tiny


@pytest.fixture
def recipe(tmp_path: Path, base: Path, data: Path) -> Path:
    """Two rounds are enough: an answer of one token is never right, so round 2 gains nothing on round 1."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "1 sky?", "answer": "blue"}\n', encoding="utf-8")
    measured = {"data": [{"path": str(questions), "format": "prompt"}], "evaluate": {"max_new_tokens": 1}}
    stages = [
        tiny.sft(data, {"max_steps": 1}, name="start"),
        {
            "rounds": {
                "times": 4,
                "init": {"policy": "$start"},
                "until": {"metric": "quality.answer", "min_gain": 0.01},
                "stages": [
                    tiny.sft(data, {"max_steps": 1}, name="policy", init="$policy"),
                    {"kind": "evaluate", "name": "quality", "init": "$policy", **measured},
                ],
            }
        },
        {"kind": "evaluate", "name": "final", "init": "$policy", **measured},
    ]
    return tiny.recipe(tmp_path / "recipes", stages, model=str(base))


def test_rounds_end_by_their_rule_and_what_follows_takes_the_last_one_made(recipe: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "ft", "run", str(recipe), "--runs", str(runs)]
    first = subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=True)
    there = tiny.planned(recipe, runs)
    names = ["start", "policy-1", "quality-1", "policy-2", "quality-2", "final"]
    assert [p.name for p in there.stages] == names
    assert {p.state for p in there.stages} == {"done"}
    assert there.stage("final").init == there.stage("policy-2").folder
    assert "policy-3, quality-3, policy-4, quality-4: not needed; after round 2 quality.answer gained 0" in first.stderr
    assert not list(runs.glob("*/policy-3-*"))
    times = {path: path.stat().st_mtime_ns for path in runs.rglob("done.json")}
    subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("done.json")} == times
