"""An evaluation of tool calls: every answer read by the template's notation and compared with the row's own.

The answers lie in the result's folder as an interrupted evaluation leaves them, so no model has to be loaded.
"""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.data.prompts import prompt_in
from ft.data.sources.files import SourceRow
from ft.errors import UserError
from ft.evaluation.tool_calls import CALL_METRICS
from ft.recipe.job import Job
from ft.stages.evaluate import EvaluateOptions, make
from wording import Like

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}}]
WANTED = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
EMBEDDED = tiny.ROOT / "data/tiny/base"
TEMPLATE = str(tiny.ROOT / "recipes/tiny/tools.jinja")
END = "<|end|>"
ANSWERS = {  # question: what the row says, and what the model wrote
    "one": (WANTED, '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' + END),
    "two": (WANTED, '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>' + END),
    "three": (WANTED, "three." + END),
    "four": (WANTED, '<tool_call>\n{"name": "add", "arg' + END),
    "hello": (None, "ask me." + END),
    "bye": (None, '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' + END),
}


def rows(file: Path, questions: list[str]) -> list[dict[str, Any]]:
    made = []
    for question in questions:
        calls, _ = ANSWERS[question]
        answer = {
            "role": "assistant",
            "content": "" if calls else "ask me.",
            **({"tool_calls": calls} if calls else {}),
        }
        made.append({"messages": [{"role": "user", "content": question}, answer], "tools": TOOLS, "sort": question[0]})
    file.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return made


def evaluated(folder: Path, questions: list[str], **options: Any) -> dict[str, Any]:
    """The numbers of an evaluation of these rows, whose answers are there already."""
    made = rows(folder / "rows.jsonl", questions)
    asked = {"max_new_tokens": 64, "baseline": False, **options}
    stage = {"kind": "evaluate", "data": [{"path": str(folder / "rows.jsonl")}], "evaluate": asked}
    planned = tiny.planned(tiny.recipe(folder, [stage], model=str(EMBEDDED), chat_template=TEMPLATE), folder / "runs")
    job: Job = tiny.job(planned, "evaluate")
    with (job.folder / "answers-model.jsonl").open("w", encoding="utf-8") as out:
        for row in made:
            key = prompt_in(SourceRow("here", row), with_tools=True).key
            text = ANSWERS[row["messages"][0]["content"]][1]
            out.write(json.dumps({"key": f"{key}/0", "text": text, "tokens": 9, "ended": True}) + "\n")
    numbers: dict[str, Any] = make(job)
    return numbers | {"folder": job.folder}


def test_calls_are_counted_right_missing_unneeded_and_unreadable(tmp_path: Path) -> None:
    numbers = evaluated(tmp_path, [*ANSWERS], metrics=[*CALL_METRICS], by="sort")
    values = {name: numbers[name] for name in (*CALL_METRICS, "unreadable_calls")}
    assert values == {
        **{"tool_calls": 2 / 6, "tool_names": 2 / 4, "tool_arguments": 1 / 4},
        **{"missing_calls": 2 / 4, "unneeded_calls": 1 / 2, "unreadable_calls": 1},
    }
    assert numbers["by"]["t"] == {"rows": 2, "score": 0.0}
    lines = [json.loads(line) for line in (numbers["folder"] / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [line["score"] for line in lines] == [1, 0, 0, 0, 1, 0]
    assert lines[4]["scores"]["tool_names"] is None
    assert lines[0]["completion"] == ANSWERS["one"][1]


def test_a_measure_that_no_row_has_a_value_for_has_no_number(tmp_path: Path) -> None:
    numbers = evaluated(tmp_path, ["hello"], metrics=["tool_calls", "tool_names"])
    assert numbers["tool_calls"] == 1
    assert "tool_names" not in numbers


def test_texts_are_measured_without_the_markup_of_calls(tmp_path: Path) -> None:
    numbers = evaluated(tmp_path, ["hello"], metrics=["exact_match", "unneeded_calls"])
    assert (numbers["exact_match"], numbers["unneeded_calls"]) == (1, 0)


def test_rows_without_an_answer_cannot_be_compared(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "one", "tools": TOOLS}) + "\n", encoding="utf-8")
    source = {"path": str(file), "format": "prompt"}
    stage = {"kind": "evaluate", "data": [source], "evaluate": {"metrics": ["tool_calls"]}}
    recipe = tiny.recipe(tmp_path, [stage], model=str(EMBEDDED), chat_template=TEMPLATE)
    with pytest.raises(UserError) as refused:
        make(tiny.job(tiny.planned(recipe, tmp_path / "runs"), "evaluate"))
    assert str(refused.value) == Like(f"{file}:1: the row has no answer to compare tool calls with. …")


def test_a_template_without_calls_is_refused_before_a_model_is_loaded(tmp_path: Path, base: Path) -> None:
    rows(tmp_path / "rows.jsonl", ["hello"])
    stage = {"kind": "evaluate", "data": [{"path": str(tmp_path / "rows.jsonl")}]}
    stage |= {"evaluate": {"metrics": ["tool_calls"], "baseline": False}}
    planned = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError, match="the chat template writes no tools"):
        make(tiny.job(planned, "evaluate"))


def test_unknown_metrics_are_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no metric 'tool_call'; there are: .*tool_calls"):
        EvaluateOptions(metrics=["tool_call"])
