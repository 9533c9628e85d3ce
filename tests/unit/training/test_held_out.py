"""The held-out loss of a training stage is one number: nats a trained token over all held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from ft.files import read_lines
from ft.training.held_out import HeldOutBatches

LENGTHS = (1, 30, 2, 25, 3, 20, 4)  # characters of the answers: a mean of means is far from the mean


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("held out") / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "ab" * length}]}
        for n, length in enumerate(LENGTHS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def truth(base, held_out) -> float:
    """By transformers alone, row by row, from where the answer begins to its end-of-turn token."""
    model, words = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    nats = tokens = 0
    for line in held_out.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        whole = words.apply_chat_template(messages, return_dict=False)
        asked = words.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        end = len(whole) - whole[::-1].index(words.eos_token_id)  # a newline behind it is not trained
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        nats -= sum(float(logprobs[place - 1, whole[place]]) for place in range(len(asked), end))
        tokens += end - len(asked)
    return nats / tokens


def stage(data: Path, held_out: Path, train: dict[str, Any]) -> dict[str, Any]:
    train = {"max_steps": 1, "learning_rate": 0.0, "max_length": 96, "eval_strategy": "steps", "eval_steps": 1, **train}
    return tiny.sft(data, train, eval_data=[{"path": str(held_out)}])


@pytest.mark.parametrize("train", [{"per_device_eval_batch_size": n} for n in (1, 3, 8)] + [{"packing": True}], ids=str)
def test_it_is_the_mean_over_trained_tokens_in_batches_of_any_size(train, tmp_path, base, data, held_out, truth):
    plan = tiny.planned(tiny.recipe(tmp_path, [stage(data, held_out, train)], model=str(base)), tmp_path / "runs")
    made = tiny.make(plan, "sft")
    assert made.done["numbers"]["eval_loss"] == pytest.approx(truth, rel=1e-6)
    (line,) = [line for line in read_lines(made.folder / "metrics.jsonl") if "eval_loss" in line]
    assert line["eval_loss"] == pytest.approx(truth, rel=1e-6)
    assert line["eval_mean_token_accuracy"] <= 1


def test_two_processes_measure_the_same(tmp_path, base, data, held_out, truth):
    file = tiny.recipe(tmp_path, [stage(data, held_out, {"per_device_eval_batch_size": 2})], model=str(base))
    numbers = tiny.made_by_two(file, tmp_path / "runs", "sft").done["numbers"]
    assert numbers["eval_loss"] == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_pairs_count_alike_in_batches_of_any_size(kind, tmp_path, base):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": "a" * n, "rejected": "b" * (8 - n)} for n in range(1, 8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    measured = []
    for size in (1, 3, 8):
        train = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": size}
        more = {"reward": {"margin": "none"}} if kind == "reward" else {}
        whole = {**tiny.sft(pairs, train, rows={"eval_fraction": 0.5}), "kind": kind, **more}
        folder = tmp_path / str(size)
        made = tiny.make(tiny.planned(tiny.recipe(folder, [whole], model=str(base)), folder / "runs"), kind)
        lines = [line for line in read_lines(made.folder / "metrics.jsonl") if "eval_loss" in line]
        measured.append({k: v for k, v in lines[-1].items() if "runtime" not in k and "per_second" not in k})
    assert len(measured[0]) > 6
    for other in measured[1:]:
        assert other == pytest.approx(measured[0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("rows", "size", "processes"), [(7, 2, 2), (8, 2, 2), (1, 4, 3), (12, 3, 1), (5, 1, 4)])
def test_every_row_is_in_one_process_or_in_all(rows, size, processes):
    of = [[*HeldOutBatches(rows, size, process, processes)] for process in range(processes)]
    full = rows // (size * processes) * size * processes
    seen = [place for batches in of for batch in batches for place in batch]
    assert all(seen.count(place) == (1 if place < full else processes) for place in range(rows))
    assert {len(batches) for batches in of} == {len(HeldOutBatches(rows, size, 0, processes))}
