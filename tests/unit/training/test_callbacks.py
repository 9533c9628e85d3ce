"""What stays of a training stage besides its weights, and which checkpoint it may continue from."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForCausalLM, Trainer, TrainerControl, TrainerState, TrainingArguments

from ft import artifacts
from ft.files import read_lines
from ft.recipe.job import Job
from ft.training import callbacks
from ft.training.callbacks import ChosenFalls, MetricsFile, Resources, ShownProgress
from ft.training.checkpoints import latest
from ft.training.loop import add_callbacks
from wording import Like


@pytest.fixture
def arguments(tmp_path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True)


def test_every_logged_value_is_one_line(tmp_path, arguments):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        metrics.on_log(arguments, TrainerState(global_step=step), TrainerControl(), logs={"loss": step / 2, "epoch": 1})
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"step": 1, "loss": 0.5, "epoch": 1}', '{"step": 2, "loss": 1.0, "epoch": 1}']


def test_a_logged_value_that_is_no_number_is_null(tmp_path, arguments):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    state = TrainerState(global_step=1, log_history=[{"loss": float("nan"), "step": 1}])
    metrics.on_log(arguments, state, TrainerControl(), logs={"loss": float("nan"), "grad_norm": float("inf")})
    assert metrics.path.read_text(encoding="utf-8") == '{"step": 1, "loss": null, "grad_norm": null}\n'
    metrics.on_train_begin(arguments, state, TrainerControl())
    assert metrics.path.read_text(encoding="utf-8") == '{"step": 1, "loss": null}\n'


def test_a_new_run_empties_the_file(tmp_path, arguments):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.path.write_text('{"step": 1, "loss": 9}\n', encoding="utf-8")
    metrics.on_train_begin(arguments, TrainerState(), TrainerControl())
    assert metrics.path.read_text(encoding="utf-8") == ""


def test_a_resumed_run_begins_with_what_its_checkpoint_knows(tmp_path, arguments):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.path.write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 8}\n{"step": 3, "lo', encoding="utf-8")
    known = [{"loss": 9.0, "step": 1}, {"loss": 8.0, "step": 2}]
    metrics.on_train_begin(arguments, TrainerState(global_step=2, log_history=known), TrainerControl())
    assert read_lines(metrics.path) == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 8.0}]


def test_only_the_first_process_writes(tmp_path, arguments):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    state = TrainerState(global_step=1, is_world_process_zero=False)
    metrics.on_train_begin(arguments, state, TrainerControl())
    metrics.on_log(arguments, state, TrainerControl(), logs={"loss": 1.0})
    assert not metrics.path.exists()


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo', encoding="utf-8")
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 9}]


def test_progress_is_told_in_lines_where_there_is_no_terminal(arguments, capsys):
    shown = ShownProgress("sft")
    state = TrainerState(global_step=0, max_steps=4)
    shown.on_train_begin(arguments, state, TrainerControl())
    shown.on_log(arguments, state, TrainerControl(), logs={"eval_loss": 2.0})
    state.global_step = 4
    shown.on_log(arguments, state, TrainerControl(), logs={"loss": 1.5, "mean_token_accuracy": 0.25, "epoch": 1})
    shown.on_log(arguments, state, TrainerControl(), logs={"train_runtime": 3.0})
    assert capsys.readouterr().err.splitlines() == [
        "sft: step 0/4  eval loss 2.000",
        "sft: step 4/4  eval loss 2.000  loss 1.500  token accuracy 0.250  epoch 1.00",
    ]


def test_the_log_says_the_speed_of_the_steps_alone_and_the_memory(tmp_path, arguments, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(callbacks, "peak_memory", lambda: 3 << 29)
    state = TrainerState(global_step=0, max_steps=4)
    every = (Resources(), MetricsFile(tmp_path / "metrics.jsonl"), ShownProgress("sft"))
    for event in ("on_train_begin", *("on_step_begin", "on_step_end", "on_log") * 2):
        given: dict[str, Any] = {}
        if event == "on_step_end":
            now[0] += 2
            state.global_step += 1
        if event == "on_log":
            now[0] += 2  # as long an evaluation behind each step
            given["logs"] = {"loss": 1.0, "num_tokens": 100.0 * state.global_step, "learning_rate": 8e-4}
            state.log_history.append({**given["logs"], "step": state.global_step})
        for callback in every:
            getattr(callback, event)(arguments, state, TrainerControl(), **given)
    assert ["lr 8.0e-04  50 tokens/s  1.5 GiB" in line for line in capsys.readouterr().err.splitlines()] == [True, True]
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(line["tokens_per_second"], line["peak_memory"]) for line in lines] == [(50.0, 3 << 29)] * 2
    every[1].rewrite(state)  # at a resume
    assert read_lines(tmp_path / "metrics.jsonl") == lines


def chosen_answers(*seen: tuple[float, float]) -> None:
    """Logs of log-probabilities under policy and reference, step by step."""
    callback = ChosenFalls(beta=0.1, advice="Lower the learning rate, or add the loss 'sft'.")
    for step, (policy, reference) in enumerate(seen):
        logs = {"logps/chosen": policy, "rewards/chosen": 0.1 * (policy - reference)}
        callback.on_log(TrainingArguments(use_cpu=True), TrainerState(global_step=step), TrainerControl(), logs=logs)


def test_a_collapse_of_the_chosen_answers_is_said_once(capsys):
    chosen_answers((-40, -40), (-55, -40), (-61, -40), (-90, -40))
    assert capsys.readouterr().err == Like("… 2 … -40.0 … -61.0 … learning … 'sft' …\n")


def test_short_answers_may_fall_by_ten_nats_and_longer_ones_are_less_likely_anyway(capsys):
    chosen_answers((-13.9, -4), (-300, -299))
    assert capsys.readouterr().err == ""


def test_a_plain_trainer_of_transformers_is_recorded_and_saved_like_any_other(tmp_path, base):
    """TRL's trainers count tokens, which ft carries over an interruption; transformers' own Trainer counts none."""
    args = TrainingArguments(
        output_dir=str(tmp_path / "checkpoints"), use_cpu=True, max_steps=1, logging_steps=1, save_steps=1
    )
    model = AutoModelForCausalLM.from_pretrained(str(base))
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 2
    trainer = add_callbacks(
        Trainer(model, args, train_dataset=rows), Job("plain", "sft", "0", tmp_path, 1, "recipe.yaml:1")
    )
    trainer.train()
    assert "loss" in read_lines(tmp_path / artifacts.METRICS)[0]
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "checkpoint-1"
