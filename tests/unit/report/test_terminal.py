"""What `ft run` says of finished stages."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tiny
from ft.files import write_json, write_lines
from ft.report.numbers import rise_warning, summary
from ft.report.terminal import show_results
from ft.stages import STAGES

CURVE = [{"step": step, "eval_loss": 2.0 - step / 2} for step in range(4)]
Said = Callable[[dict[str, Any]], str]


@pytest.fixture
def said(tmp_path: Path, base: Path, data: Path) -> Said:
    """The line about an SFT stage that left these numbers."""

    def line(numbers: dict[str, Any]) -> str:
        file, runs = tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base)), tmp_path / "runs"
        folder = tiny.planned(file, runs).stage("sft").folder
        write_json(folder / "done.json", {"stage": "sft", "numbers": numbers})
        told = io.StringIO()
        show_results([tiny.planned(file, runs).stage("sft")], Console(file=told, width=200))
        return told.getvalue().splitlines()[0]

    return line


def test_the_held_out_loss_stands_for_the_loss_of_single_batches(said: Said):
    numbers = {"loss_first": 0.8, "loss_last": 0.9, "eval_loss_first": 1.7, "eval_loss": 0.84, "steps": 5}
    assert said(numbers) == "sft: eval loss 1.700 → 0.840, 5 steps"


def test_a_terminal_shows_the_curve_that_a_file_does_not(tmp_path: Path, base: Path, data: Path):
    there = tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base)), tmp_path / "runs")
    folder = there.stage("sft").folder
    write_json(folder / "done.json", {"stage": "sft", "numbers": {"eval_loss_first": 2.0, "eval_loss": 0.5}})
    write_lines(folder / "metrics.jsonl", CURVE)
    lines = []
    for is_terminal in (True, False):
        text = io.StringIO()
        console = Console(file=text, width=200, force_terminal=is_terminal, color_system=None)
        show_results([tiny.planned(tmp_path / "tiny.yaml", tmp_path / "runs").stage("sft")], console)
        lines.append(text.getvalue().splitlines()[0].rstrip())
    assert lines == ["sft: eval loss 2.000 → 0.500 █▆▃▁", "sft: eval loss 2.000 → 0.500"]


def test_the_training_loss_is_said_where_nothing_is_held_out(said: Said):
    assert said({"loss_first": 1.5, "loss_last": 0.25, "steps": 5}) == "sft: training loss 1.500 → 0.250, 5 steps"


def test_counts_of_nothing_are_left_out(said: Said):
    assert said({"rows": 4_500, "too_long": 0}) == "sft: 4,500 rows"


def test_an_evaluation_that_was_the_only_one_is_no_before(said: Said):
    numbers = {"eval_loss_first": 0.9, "eval_loss_first_step": 50, "eval_loss": 0.9, "steps": 50}
    assert said(numbers) == "sft: eval loss 0.900, 50 steps"


def test_what_was_measured_after_training_had_begun_is_not_told_as_before(said: Said):
    numbers = {"eval_loss_first": 0.915, "eval_loss_first_step": 50, "eval_loss": 0.705, "steps": 200}
    assert said(numbers) == "sft: eval loss 0.915 (step 50) → 0.705, 200 steps"
    assert said({**numbers, "eval_loss_first_step": 0}) == "sft: eval loss 0.915 → 0.705, 200 steps"


@pytest.mark.parametrize(("last", "line"), [(0.612, False), (0.705, True)])
def test_an_eval_loss_that_rose_after_its_best_step_is_told(last: float, line: bool):
    numbers = {"eval_loss_best": 0.61, "eval_loss_best_step": 100, "eval_loss": last}
    assert bool(rise_warning(numbers)) == line
    assert not line or "lowest at step 100 (0.610) and rose to 0.705" in rise_warning(numbers)


@pytest.mark.parametrize("kind", [kind for kind in STAGES if STAGES[kind].display.summary])
def test_a_stage_ends_with_at_most_three_numbers(kind: str):
    numbers = {
        f"{name}{end}": 0.5 for name in ("answer", "says", "accuracy", "win_rate") for end in ("", "_low", "_high")
    }
    numbers |= {f"turn_{turn}": 0.5 for turn in range(1, 21)} | {f"accuracy_{rating}": 0.5 for rating in range(1, 5)}
    assert summary(numbers, STAGES[kind].display.summary).count(",") < 3


def test_the_answers_shown_last_are_those_of_the_model_made_last(tmp_path: Path, base: Path, data: Path):
    asked = {"data": [{"path": str(data), "format": "prompt"}], "evaluate": {"max_new_tokens": 4}}
    stages = [
        tiny.sft(data, name="chat"),
        {"kind": "evaluate", "name": "questions", "init": "$chat", **asked},
        tiny.sft(data, name="better", init="$chat"),
        {"kind": "evaluate", "name": "manners", "init": "$better", "inputs": {"baseline": "$chat"}, **asked},
    ]
    file, runs = tiny.recipe(tmp_path, stages, model=str(base)), tmp_path / "runs"
    for planned in tiny.planned(file, runs).stages:
        write_json(planned.folder / "done.json", {"stage": planned.name, "numbers": {"steps": 1}})
    folders = {planned.name: planned.folder for planned in tiny.planned(file, runs).stages}
    write_json(folders["questions"] / "dialogue.json", [{"role": "user", "content": "what colour is the crow?"}])
    answer = {"prompt": "thanks?", "baseline_completion": "ask me.", "completion": "of course!", "score": 1}
    write_lines(folders["manners"] / "answers.jsonl", [answer])
    text = io.StringIO()
    show_results(tiny.planned(file, runs).stages, Console(file=text, width=200))
    assert text.getvalue().splitlines()[4:] == [
        "",
        "answers of better, before it chat (from manners):",
        "  user: thanks?",
        "before: ask me.",
        " after: of course! [right]",
        "",
        f"model better: {folders['better']}",
        f"talk to better: ft chat {folders['better']}",
    ]


def test_the_model_to_talk_to_is_the_one_that_was_evaluated_not_one_it_was_compared_with(
    tmp_path: Path, base: Path, data: Path
):
    block = {"bank": "bank.yaml"}
    bank = "kinds: {pet: {full: Love your cat., check: {contains: {phrases: [cat]}}}}"
    (tmp_path / "bank.yaml").write_text(bank, encoding="utf-8")
    stages = [
        tiny.sft(data, name="chat"),
        tiny.sft(data, name="better", init="$chat"),
        tiny.sft(data, name="ablation", init="$chat"),
        {
            **{"kind": "consistency", "init": "$better", "inputs": {"before": "$chat", "ablation": "$ablation"}},
            **{"data": [{"path": str(data)}], "consistency": block},
        },
    ]
    file, runs = tiny.recipe(tmp_path, stages, model=str(base)), tmp_path / "runs"
    for planned in tiny.planned(file, runs).stages:
        write_json(planned.folder / "done.json", {"stage": planned.name, "numbers": {"steps": 1}})
    there = {planned.name: planned.folder for planned in tiny.planned(file, runs).stages}
    line = {"cell": "seen", "dialogue": "0", "instruction": "love your cat.", "obeyed": {"pet": True}, "right": True}
    answers = [{**line, "model": "after", "turn": turn, "question": "and?", "answer": "a cat."} for turn in (1, 4)]
    write_lines(there["consistency"] / "answers.jsonl", answers)
    by_turn = "model,cell,turn,answers,recall,low,high,correct\nafter,seen,1,1,1,0.2,1,1\n"
    (there["consistency"] / "by_turn.csv").write_text(by_turn, encoding="utf-8")
    text = io.StringIO()
    show_results(tiny.planned(file, runs).stages, Console(file=text, width=200))
    shown = text.getvalue().splitlines()
    begin = shown.index("answers of better, before it chat (from consistency):")
    assert shown[begin + 1 : begin + 6] == [
        "system: love your cat.",
        "  user: (turn 1) and?",
        " after: a cat. [followed, answer right]",
        "  user: (turn 4) and?",
        " after: a cat. [followed, answer right]",
    ]
    assert shown[-1] == f"talk to better: ft chat {there['better']}"
