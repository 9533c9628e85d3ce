"""Held-out loss against the Trainer's own, on the same rows; answers against references; resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.errors import UserError
from ft.figures.evaluation import evaluation
from ft.figures.result_files import ResultFiles
from ft.results.store import PlannedStage

PART = {"eval_fraction": 0.4}


def measured(
    folder: Path, model: Path, data: Path, *above: dict[str, Any], rows: Any = None, **block: Any
) -> PlannedStage:
    asked = {"kind": "evaluate", "data": [{"path": str(data)}], "evaluate": {"loss": True, "baseline": False, **block}}
    asked |= {"rows": rows} if rows else {}
    folder.mkdir(exist_ok=True)
    file = tiny.recipe(folder, [*above, asked], model=str(model))
    return tiny.make(tiny.planned(file, folder / "runs"), "evaluate")


def lines(found: PlannedStage, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (found.folder / name).read_text(encoding="utf-8").splitlines()]


def test_the_loss_is_the_trainers_own_on_the_rows_that_training_held_out(tmp_path, ending, data):
    """TRL's SFTTrainer evaluates the same rows in one batch, so that its mean is one over tokens."""
    train = {"max_steps": 1, "learning_rate": 1e-12, "per_device_eval_batch_size": 64, "eval_strategy": "steps"}
    stage = tiny.sft(data, {**train, "eval_steps": 1}, rows=PART)
    trained = tiny.make(tiny.planned(tiny.recipe(tmp_path, [stage], model=str(ending)), tmp_path / "runs"), "sft")
    found = measured(tmp_path / "own", ending, data, rows=PART, batch_size=3)
    numbers = found.done["numbers"]
    assert numbers["eval_loss"] == pytest.approx(trained.done["numbers"]["eval_loss"], abs=1e-5)
    assert numbers["perplexity"] == math.exp(numbers["eval_loss"])
    assert 0 < numbers["eval_rows"] < 32
    assert numbers["eval_loss_low"] < numbers["eval_loss"] < numbers["eval_loss_high"]


def test_bits_per_byte_count_the_answers_bytes(tmp_path, ending, data):
    numbers = measured(tmp_path, ending, data).done["numbers"]
    texts = [json.loads(line)["messages"][-1]["content"] for line in data.read_text(encoding="utf-8").splitlines()]
    size = sum(len(text.encode()) for text in texts)
    assert numbers["eval_tokens"] == size + len(texts)  # a token a byte, and the end of each answer
    nats = numbers["eval_loss"] * numbers["eval_tokens"]
    assert numbers["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)


def test_the_loss_of_each_row_is_written_down_and_adds_up(tmp_path, ending, data):
    found = measured(tmp_path, ending, data)
    told = [line["model"] for line in lines(found, "losses.jsonl")]
    whole = sum(line["nats"] for line in told) / sum(line["tokens"] for line in told)
    assert whole == pytest.approx(found.done["numbers"]["eval_loss"])
    (losses,) = evaluation(ResultFiles(found.folder))["losses"]
    assert [(name, sum(counts)) for name, counts in losses.counts] == [("after", 32)]
    assert losses.edges[-1] == pytest.approx(max(line["nats"] / line["tokens"] for line in told))
    assert {losses.title, "nats per token"} <= set(tiny.drawn_words(found.folder / "losses.svg"))
    assert not list(found.folder.glob("losses-*"))


def test_rows_that_are_too_long_are_told_and_counted(tmp_path, ending, data):
    with pytest.raises(UserError, match="over max_length 33"):
        measured(tmp_path / "told", ending, data, max_length=33)
    found = measured(tmp_path / "dropped", ending, data, max_length=33, rows={"on_too_long": "drop"})
    numbers = found.done["numbers"]
    assert numbers["eval_rows"] + numbers["eval_rows_left_out"] == 32
    assert numbers["eval_rows_left_out"] > 0


def test_answers_are_compared_with_the_rows_own(tmp_path, ending, data):
    found = measured(tmp_path, ending, data, metrics=["exact_match", "rougeL", "bleu"], max_new_tokens=10)
    numbers, told = found.done["numbers"], lines(found, "answers.jsonl")
    right = [line["completion"] == line["messages"][-1]["content"] for line in told]
    assert numbers["exact_match"] == sum(right) / 32 > 0.5
    assert [line["scores"]["exact_match"] for line in told] == [float(one) for one in right]
    assert {"rougeL", "rougeL_low", "bleu_high", "eval_loss"} <= set(numbers)
    (measures,) = evaluation(ResultFiles(found.folder))["metrics"]
    values = {label: dot.value for label, (dot,) in measures.rows_of_dots}
    assert values == {"exact match": numbers["exact_match"], "rougeL": numbers["rougeL"], "bleu": numbers["bleu"]}
    assert {"exact match", "rougeL", "bleu"} <= set(tiny.drawn_words(found.folder / "metrics.svg"))


def test_one_prompt_with_two_references_is_drawn_once_and_counted_twice(tmp_path, ending):
    rows = [{"prompt": "0 sky?", "gold": gold} for gold in (["blue", "azure"], "red")]
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = measured(tmp_path, ending, data, loss=False, metrics=["exact_match"], references="gold", max_new_tokens=10)
    assert [line["score"] for line in lines(found, "answers.jsonl")] == [1.0, 0.0]


def test_a_missing_reference_is_told_by_its_line(tmp_path, ending):
    data = tmp_path / "prompts.jsonl"
    data.write_text('{"prompt": "0 sky?", "answer": "blue"}\n{"prompt": "1 grass?"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"prompts\.jsonl:2: the column 'answer' holds no reference text"):
        measured(tmp_path, ending, data, loss=False, metrics=["rougeL"])


def test_an_interrupted_evaluation_goes_on_where_it_stood(tmp_path, ending, data, monkeypatch):
    """The second batch of losses fails; the same command measures what is missing and ends with the same numbers."""
    whole = measured(tmp_path / "whole", ending, data, batch_size=8)
    from ft.models.generation.chat_model import ChatModel

    real, calls = ChatModel.row_logprobs, []

    def breaks(self: ChatModel, *given: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(ChatModel, "row_logprobs", breaks)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "cut", ending, data, batch_size=8)
    found = measured(tmp_path / "cut", ending, data, batch_size=8)
    assert len(calls) == 2 + 3
    assert found.done["numbers"] == whole.done["numbers"]


def test_keys_left_out_stay_out_of_the_fingerprint(tmp_path, base, data):
    asked = {"kind": "evaluate", "data": [{"path": str(data), "format": "prompt"}], "evaluate": {"reward": "answer"}}
    file = tiny.recipe(tmp_path, [asked], model=str(base))
    key = tiny.planned(file, tmp_path / "runs").stage("evaluate").key
    assert key["evaluate"] == {"reward": "answer"}
    assert "rows" not in key
