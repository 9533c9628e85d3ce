"""lm-evaluation-harness asks with our prompts, byte for byte; where it is not installed, that is said first."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.encode.conversation import Renderer
from ft.errors import UserError
from ft.models.processor import tokenizer_of
from ft.results.store import Plan
from ft.run.preflight import preflight
from ft.stages.harness import HarnessOptions, task_name, task_numbers

installed = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


def task(folder: Path, kind: str = "generate_until", metric: str = "exact_match", more: str = "") -> Path:
    rows = [{"question": f"{n} {tiny.THINGS[n]}?", "answer": tiny.COLOURS[n]} for n in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = more or "generation_kwargs: {until: ['!'], max_gen_toks: 12, do_sample: false}"
    file = folder / "colours.yaml"
    file.write_text(TASK.format(rows=folder / "rows.jsonl", kind=kind, metric=metric, more=more), encoding="utf-8")
    return file


def planned(folder: Path, model: Path, **block: Any) -> Plan:
    stage = {"kind": "harness", "harness": block}
    return tiny.planned(tiny.recipe(folder, [stage], model=str(model)), folder / "runs")


@installed
def test_what_is_sent_is_our_prompt_byte_for_byte(tmp_path, ending, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    sent: list[list[int]] = []
    real = HFLM._model_generate

    def heard(self: Any, context: Any, **given: Any) -> Any:
        sent.extend(row[mask.bool()].tolist() for row, mask in zip(context, given["attention_mask"], strict=True))
        return real(self, context=context, **given)

    monkeypatch.setattr(HFLM, "_model_generate", heard)
    made = tiny.make(planned(tmp_path, ending, file=str(task(tmp_path)), system="be brief", batch_size=2), "harness")
    asked = [json.loads(line) for line in (made.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    renderer = Renderer(tokenizer_of(None, ending))
    dialogues = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"{n} {tiny.THINGS[n]}?"}]
        for n in range(4)
    ]
    assert [one["arguments"][0][0] for one in asked] == [renderer.prompt_text(messages) for messages in dialogues]
    assert sorted(sent) == sorted(renderer.prompt(messages) for messages in dialogues)
    assert made.done["numbers"]["colours_questions"] == 4


@installed
def test_answers_are_scored_behind_the_prompt_as_in_training(tmp_path, ending):
    from ft.models.generation.chat_model import ChatModel

    more = "doc_to_choice: ['blue', 'green', 'white', 'black']"
    file = task(tmp_path, "multiple_choice", "acc", more)
    file.write_text(
        file.read_text(encoding="utf-8")
        .replace("target_delimiter", "")
        .replace("output_type", "target_delimiter: ''\noutput_type"),
        encoding="utf-8",
    )
    made = tiny.make(planned(tmp_path, ending, file=str(file)), "harness")
    asked = [json.loads(line) for line in (made.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    chat_model = ChatModel(None, ending)
    prompt = chat_model.renderer.prompt([{"role": "user", "content": "0 sky?"}])
    answers = [chat_model.tokenizer(text)["input_ids"] for text in ("blue", "green", "white", "black")]
    ours = chat_model.logps([prompt] * 4, answers)
    theirs = [float(reply[0][0]) for reply in asked[0]["resps"]]
    assert theirs == pytest.approx(ours, abs=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm_eval is installed")
def test_a_missing_harness_is_told_before_anything_is_made(tmp_path, base):
    with pytest.raises(UserError, match=r"lm-evaluation-harness is not installed\. pip install lm_eval"):
        preflight(planned(tmp_path, base, tasks=["gsm8k"]).stages)


def test_a_task_must_be_named():
    with pytest.raises(ValueError, match="tasks is missing"):
        HarnessOptions()


def test_numbers_of_the_harness_get_names_and_intervals():
    results = {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict": 0.0, "sample_len": 4}}
    results["t"]["exact_match_stderr,strict"] = 0.0
    found = task_numbers(results, {"t": [{}] * 4})
    assert found["t_acc"] == 0.5
    assert (found["t_acc_low"], found["t_acc_high"]) == pytest.approx((0.304, 0.696))
    assert found["t_exact_match_strict_high"] == pytest.approx(0.4899, abs=1e-4)  # Wilson's, of none of four
    assert found["t_questions"] == 4


def test_a_task_that_runs_code_is_refused(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: own\nprocess_results: !function utils.run\n", encoding="utf-8")
    with pytest.raises(UserError, match="it names a function to run"):
        task_name(file)
