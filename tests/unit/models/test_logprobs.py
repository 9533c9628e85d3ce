"""Log-probabilities of answers, and the distance of two models they give."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from ft.models.logprobs import completion_logprobs


@pytest.fixture(scope="module")
def model(base):
    return AutoModelForCausalLM.from_pretrained(str(base)).eval()


def test_an_answers_log_probability_is_the_sum_of_its_tokens(model):
    prompt, answer = [5, 6, 7], [8, 9]
    with torch.no_grad():
        steps = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    assert completion_logprobs(model, [prompt], [answer]) == pytest.approx([(steps[2, 8] + steps[3, 9]).item()])


def test_neighbours_in_a_batch_change_nothing(model):
    prompts, answers = [[5, 6, 7], [9] * 12, [3]], [[8, 9], [4] * 6, []]
    alone = [completion_logprobs(model, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert completion_logprobs(model, prompts, answers) == pytest.approx(alone, abs=1e-5)
    assert completion_logprobs(model, prompts, answers, batch_size=1) == pytest.approx(alone, abs=1e-5)
    assert alone[2] == 0.0


def evaluated(folder, base, data, batch_size=64, **sft):
    rows = folder / "prompts.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"{n} sky?", "answer": "blue"}) + "\n" for n in range(64)), encoding="utf-8"
    )
    asked = {
        **{"kind": "evaluate", "init": "$sft", "data": [{"path": str(rows), "format": "prompt"}]},
        "evaluate": {"max_new_tokens": 4, "kl": True, "batch_size": batch_size},
    }
    file = tiny.recipe(folder, [tiny.sft(data, sft), asked], model=str(base))
    tiny.make(tiny.planned(file, folder / "runs"), "sft")
    return tiny.make(tiny.planned(file, folder / "runs"), "evaluate").done["numbers"]


def test_an_unchanged_model_is_0_nats_from_its_baseline(tmp_path, base, data):
    numbers = evaluated(tmp_path, base, data, learning_rate=0.0, max_steps=1)
    assert (numbers["kl"], numbers["kl_error"]) == (0.0, 0.0)


def test_a_trained_model_is_far_from_its_baseline(tmp_path, base, data):
    numbers = evaluated(tmp_path, base, data, max_steps=20)
    assert numbers["kl"] > 3 * numbers["kl_error"]


def test_the_distance_to_the_baseline_does_not_depend_on_the_batch_size(tmp_path, base, data):
    for name in ("seven", "all"):
        (tmp_path / name).mkdir()
    together = evaluated(tmp_path / "all", base, data, max_steps=2)
    by_sevens = evaluated(tmp_path / "seven", base, data, batch_size=7, max_steps=2)
    assert by_sevens["kl"] == pytest.approx(together["kl"], abs=1e-5)
