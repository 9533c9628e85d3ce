"""An evaluation asks held-out prompts of two models and says how both did."""

from __future__ import annotations

import json

import pytest

import tiny
from ft.errors import UserError
from ft.evaluation.statistics import wilson
from ft.files import read_json
from ft.stages.evaluate import EvaluateOptions
from wording import Like

QUESTIONS = [{"prompt": f"{n} {tiny.THINGS[n % 8]}?", "answer": tiny.COLOURS[n % 8], "half": n % 2} for n in range(8)]


@pytest.fixture(scope="module")
def judged(tmp_path_factory, base, data):
    """The folder of an evaluation of a model that has learnt its rows by heart."""
    folder = tmp_path_factory.mktemp("judged")
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    asked = {
        **{"kind": "evaluate", "init": "$sft", "data": [{"path": str(questions), "format": "prompt"}]},
        "evaluate": {"max_new_tokens": 8, "by": "half", "dialogue": ["0 sky?", "1 grass?"]},
    }
    file = tiny.recipe(folder, [tiny.sft(data, {"max_steps": 80, "learning_rate": 0.005}), asked], model=str(base))
    tiny.make(tiny.planned(file, folder / "runs"), "sft")
    return tiny.make(tiny.planned(file, folder / "runs"), "evaluate")


def test_what_was_learnt_is_right_and_what_was_not_is_wrong(judged):
    numbers = judged.done["numbers"]
    assert numbers["answer"] == 1.0
    assert numbers["baseline_answer"] == 0.0
    assert (round(numbers["answer_low"], 3), numbers["answer_high"]) == (0.676, 1.0)
    assert numbers["by"] == {"0": {"rows": 4, "score": 1.0}, "1": {"rows": 4, "score": 1.0}}
    assert read_json(judged.folder / "metrics.json") == numbers


def test_every_answer_is_written_down_beside_its_question(judged):
    rows = [json.loads(line) for line in (judged.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["completion"] for row in rows] == list(tiny.COLOURS)
    assert [row["answer"] for row in rows] == list(tiny.COLOURS)
    assert {row["score"] for row in rows} == {1.0}
    assert all(row["baseline_completion"] != row["completion"] for row in rows)


def test_a_dialogue_answers_every_turn(judged):
    said = read_json(judged.folder / "dialogue.json")
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant"]
    assert said[1]["content"] == "blue"


def test_a_figure_shows_the_scores(judged):
    words = tiny.drawn_words(judged.folder / "scores.svg")
    assert {"before", "after", "score", "100%"} <= set(words)


def test_rows_that_are_no_prompts_are_refused(tmp_path, base, data):
    asked = {"kind": "evaluate", "data": [{"path": str(data)}], "evaluate": {}}
    file = tiny.recipe(tmp_path, [asked], model=str(base))
    with pytest.raises(UserError) as refused:
        tiny.make(tiny.planned(file, tmp_path / "runs"), "evaluate")
    assert str(refused.value) == Like(f"{file}:4: evaluation … `format: prompt` …")


def test_an_unknown_reward_is_refused():
    with pytest.raises(ValueError, match=r"^there is no reward 'anwser'; there are: answer"):
        EvaluateOptions(reward="anwser")


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(0, 10, 0.0, 0.278), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1.0)]
)
def test_the_interval_is_wilsons(right, count, low, high):
    assert tuple(round(value, 3) for value in wilson(right, count)) == (low, high)
