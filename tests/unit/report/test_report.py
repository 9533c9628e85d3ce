"""The report page: its numbers are the files', it works in any state of a run, and nothing of a row becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from ft.cli import app
from ft.figures.charts import Dots, Lines, Point, Series
from ft.figures.numbers import format_number
from ft.figures.svg_file import figure_file
from ft.files import read_json, write_json
from ft.report.compare import compare_runs
from ft.report.gather import gather_report
from ft.report.numbers import duration, main_number, numbers_of
from ft.report.page import comparison_page, report_page, write
from ft.report.parts import Answers, Charts, MaskedRows, Picture
from ft.report.run import ReportedStage, Run, is_current, of_folder, of_plan
from ft.report.settings import flat
from ft.result import Result
from ft.stages import STAGES
from wording import Like

EVIL = "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} \"'><b onclick=x>"
LINES = Lines("Rain", "day", "mm", (Series("", (Point(1, 2.0), Point(2, 3.0))),))
ASKED = {"kind": "evaluate", "init": "$sft", "evaluate": {"reward": "answer", "by": "topic"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A trained stage, and behind it one that is only planned: the folder of the recipe and its runs."""
    folder = tmp_path_factory.mktemp("report")
    train = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    stages = [
        tiny.sft(data, train, rows={"eval_fraction": 0.2}),
        {**ASKED, "data": [{"path": str(data), "format": "prompt"}]},
    ]
    tiny.make(tiny.planned(tiny.recipe(folder, stages, model=str(base)), folder / "runs"), "sft")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Callable[[], Run]:
    """A copy of it that a test may spoil."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return lambda: of_plan(tiny.planned(made / "tiny.yaml", tmp_path / "runs"))


def answered(run: Run, row: Mapping[str, Any], **numbers: float) -> Path:
    """The evaluation as if made, with this one answer."""
    folder = run.results[1].folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    write_json(folder / "done.json", {"stage": "evaluate", "kind": "evaluate", "numbers": numbers, "seconds": 2.0})
    return folder


def parts(run: Run, stage: int, kind: type) -> list[Any]:
    sections = gather_report(run).stages[stage].sections
    inside = [part for section in sections for part in section.parts]
    return [
        p
        for p in [*inside, *(c for part in inside if isinstance(part, Charts) for c in part.charts)]
        if isinstance(p, kind)
    ]


# What it says is what the files say


def test_curves_are_the_lines_of_the_metrics_file(run):
    folder = run().results[0].folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    loss = next(chart for chart in parts(run(), 0, Lines) if chart.title == "Loss")
    drawn = {series.name: [(p.x, p.y) for p in series.points] for series in loss.series}
    assert drawn["held out"] == [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
    assert drawn["training rows"] == [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_the_only_script_of_a_page_is_the_one_its_policy_names(run):
    page = report_page(run())
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert page.count("<script") == 1
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page


def test_the_contents_name_places_of_the_page(run):
    page = report_page(run())
    contents = page[page.index('class="contents"') : page.index("</nav>")]
    places = re.findall(r'href="#([^"]+)"', contents)
    assert len(places) > 3
    assert all(f'id="{place}"' in page for place in places)


def test_counts_of_rows_and_tokens_are_those_of_the_prepared_rows(run):
    stats = read_json(run().stages[0].rows / "stats.json")
    page = report_page(run())
    for count in (stats["train"]["tokens"], stats["train"]["trained_tokens"], stats["eval"]["trained_tokens"]):
        assert f">{count:,}<" in page


def test_shown_rows_mark_exactly_the_trained_text(run):
    (masked,) = parts(run(), 0, MaskedRows)
    text = [(words.text, words.trained) for words in masked.rows[0].parts[0].words]
    assert text[-2:] == [("green<|im_end|>", True), ("⏎\n", False)]
    assert sum(words.trained for words in masked.rows[0].parts[0].words) == 1


def test_settings_are_those_that_differ_from_the_class(run, made, tmp_path):
    found = CliRunner().invoke(app, ["plan", str(made / "tiny.yaml"), "--runs", str(tmp_path / "runs")])
    assert found.exit_code == 0  # remembers the classes' defaults
    table = gather_report(run()).stages[0].settings[0].parts[0]
    assert ("train.max_steps", "3", "-1") in table.rows
    assert ("train.per_device_train_batch_size", "8", "8") not in table.rows


def test_names_of_settings_break_at_their_joints_and_are_whole_words_for_a_reader(run):
    page = report_page(run())
    assert ">train.<wbr>max_<wbr>steps<" in page
    assert "&lt;wbr&gt;" not in page


def test_scores_by_topic_are_counted_from_the_answers(run):
    rows = [{"topic": "colour", "prompt": "?", "completion": "x", "score": float(n > 0)} for n in range(4)]
    (answered(run(), rows[0]) / "answers.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (chart,) = parts(run(), 1, Dots)
    assert [(label, dot.series, dot.value, dot.count) for label, (dot,) in chart.rows_of_dots] == [
        ("colour", "after", 0.75, 4)
    ]
    assert chart.rows == [["colour", "75.0% (30.1% to 95.4%) of 4"]]


def test_the_main_number_has_its_interval_and_what_it_was(run):
    answered(run(), {}, answer=0.9, answer_low=0.8, answer_high=0.95, baseline_answer=0.1)
    card = gather_report(run()).cards[-1]
    assert (card.stage, card.number.was, card.number.value, card.number.interval) == (
        "evaluate",
        0.1,
        0.9,
        "80.0% to 95.0%",
    )
    assert "<small>10.0% → </small>90.0%" in report_page(run())


def test_the_page_of_a_run_begins_with_how_far_it_came(run):
    answered(
        run(), {"prompt": "?", "completion": "!"}, answer=0.9, answer_low=0.8, answer_high=0.95, baseline_answer=0.1
    )
    before_sections = report_page(run()).partition("<h2")[0]
    assert '<p class="verdict">evaluate, accuracy: from 10.0% to 90.0%, 95 % interval' in before_sections


def test_of_numbers_by_turn_the_last_one_counts():
    found = {
        "turn_2": 0.9,
        "turn_2_low": 0.8,
        "turn_2_high": 1.0,
        "turn_20": 0.7,
        "turn_20_low": 0.6,
        "turn_20_high": 0.8,
    }
    assert main_number(STAGES["consistency"].display.headline, numbers_of(found)).name == "turn_20"


def test_an_interval_of_nothing_is_none():
    (number,) = numbers_of({"length": 12.5, "length_low": float("nan"), "length_high": float("nan")})
    assert (number.text, number.interval) == ("12.500", "")


def test_values_are_short():
    assert [format_number(v) for v in (0.8412, 12345, 3.24e-5, None, True)] == [
        "0.841",
        "12,345",
        "3.24e-05",
        "·",
        "yes",
    ]
    assert [duration(s) for s in (4.2, 192, 7500)] == ["4.2 s", "3 min 12 s", "2 h 5 min"]


# Nothing of a row becomes markup, nothing leaves the file


def test_what_rows_and_models_say_is_escaped(run):
    row = {"topic": EVIL, "prompt": [{"role": EVIL, "content": EVIL}], "completion": EVIL, "score": 1.0}
    answered(run(), {**row, "baseline_completion": EVIL, "baseline_score": 0.0})
    page = report_page(run())
    assert page.count("<script") == 1  # the page's own
    assert "<b onclick" not in page
    assert page.count("{{ 7 * 7 }} {% raw %}") >= 3  # as it was written, not as a template reads it


def test_the_page_names_no_other_file(run):
    page = report_page(run())
    assert not any(word in page for word in ("http:", "https:", 'src="/', "@import", "url(", "<link", "<script src"))
    assert 'content="default-src &#39;none&#39;; style' in page


def test_no_token_stands_in_it_whoever_said_it(run, monkeypatch):
    token, held = "hf_" + "abcdefghijklm" * 2 + "1234567890", "abcdefghijklm-planted-4711"
    monkeypatch.setenv("OWN_API_KEY", held)
    answered(run(), {"completion": f"{token} and {held}"}, answer=1.0)
    page = report_page(run())
    assert token not in page
    assert held not in page
    assert "hf_…(39 characters) and …(26 characters)" in page


def test_no_folder_of_this_machine_stands_in_it(run, tmp_path):
    result = run()
    assert str(tmp_path) not in report_page(Run(result.name, result.stages))  # the command names what was typed


# Any state


def test_a_run_of_which_nothing_is_made_is_told_as_such(made, tmp_path):
    page = report_page(of_plan(tiny.planned(made / "tiny.yaml", tmp_path / "none")))
    assert "<b>0 of 2 stages</b>" in page
    assert page.count("pending") >= 2


def test_a_stage_that_was_interrupted_shows_what_it_has(run):
    (run().results[0].folder / "done.json").unlink()
    report = gather_report(run())
    assert report.stages[0].state == "unfinished"
    assert "interrupted, or failed, at step 3. The same `ft run` continues it." in report.stages[0].warnings[0]
    assert "was interrupted" in report.stages[0].warnings[0]
    assert any(chart.title == "Loss" for chart in parts(run(), 0, Lines))


BROKEN: list[tuple[str, str, str]] = [
    (
        "metrics.jsonl",
        '{"step": 1, "loss": 2.0}\n{"step": 2, "lo',
        "metrics.jsonl:2 is broken; what stands behind it was left out.",
    ),
    ("metrics.jsonl", "[1, 2]\n", "metrics.jsonl:1 is broken; what stands behind it was left out."),
    ("answers.jsonl", '{"completion": {"a": 1}, "score": "high"}\n', ""),
    ("dialogue.json", "{", "dialogue.json is broken and was left out."),
    ("shown.png", "no picture", "shown.png is no picture and was left out."),
    ("by_turn.csv", "model,cell\nx,y,z\n", ""),
    ("verdicts.jsonl", '{"prompt": 3, "winner": null}\n', ""),
    ("rollouts.jsonl", '{"prompt": null, "rewards": 3}\n', ""),
    ("own.jsonl", '{"a": 1}\n', ""),
]


@pytest.mark.parametrize(("name", "text", "warning"), BROKEN)
def test_a_broken_file_is_named_and_costs_nothing_else(run, name, text, warning):
    folder = answered(run(), {"completion": "x"}, answer=1.0)
    (folder / name).write_text(text, encoding="utf-8")
    report = gather_report(run())
    assert [w for w in report.stages[1].warnings if w] == ([warning] if warning else [])
    assert report_page(run())


@pytest.mark.parametrize("kind", ["consistency", "attention", "report-card", "sample", "gatt", "judge", "of tomorrow"])
def test_an_empty_folder_of_any_kind_is_a_page(tmp_path, kind):
    (tmp_path / "stage-1").mkdir()
    write_json(tmp_path / "stage-1" / "done.json", {"numbers": {"score": 0.5}, "seconds": 1})
    result = ReportedStage("stage", kind, Result(tmp_path / "stage-1"), "1")
    assert ">0.500<" in report_page(Run("run", (result,)))


def test_files_of_a_kind_nobody_knows_are_shown(tmp_path):
    write_json(tmp_path / "done.json", {"numbers": {}})
    (tmp_path / "own.csv").write_text("day,rain\nmonday,3\n", encoding="utf-8")
    (tmp_path / "notes.jsonl").write_text('{"said": "so be it"}\n', encoding="utf-8")
    page = report_page(Run("run", (ReportedStage("stage", "of tomorrow", Result(tmp_path), "1"),)))
    assert ">monday<" in page
    assert ">so be it<" in page


def test_a_figure_of_a_kind_nobody_knows_is_shown_without_its_secrets(tmp_path):
    token = "hf_" + "abcdefghijklm" * 2 + "1234567890"
    write_json(tmp_path / "done.json", {"numbers": {}})
    (tmp_path / "own.svg").write_text(figure_file(f"rain of {token}", [LINES]), encoding="utf-8")
    (tmp_path / "broken.svg").write_text("<svg", encoding="utf-8")
    run = Run("run", (ReportedStage("stage", "of tomorrow", Result(tmp_path), "1"),))
    (shown,) = parts(run, 0, Picture)
    inside = base64.b64decode(shown.uri.removeprefix("data:image/svg+xml;base64,")).decode()
    assert "rain of hf_…(39 characters)" in inside
    assert ("stage", "broken.svg is no picture and was left out.") in gather_report(run).problems


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sft", "loss"),
        ("dpo", "preferences"),
        ("ppo", "learning"),
        ("consistency", "consistency"),
        ("attention", "map"),
        ("report-card", "card"),
        ("sample", "best_of_n"),
        ("judge", "judge"),
        ("evaluate", "scores"),
    ],
)
def test_a_result_of_an_earlier_version_that_holds_only_its_png_is_shown(tmp_path, kind, name):
    write_json(tmp_path / "done.json", {"numbers": {}})
    Image.new("RGB", (90, 30), "teal").save(tmp_path / f"{name}.png")
    run = Run("run", (ReportedStage("stage", kind, Result(tmp_path), "1"),))
    assert [shown.title for shown in parts(run, 0, Picture)] == [name.replace("_", " ")]


def test_a_figure_stands_once_in_the_page_whatever_files_show_it_too(run):
    folder = run().results[0].folder
    Image.new("RGB", (90, 30), "teal").save(folder / "loss.png")
    assert (folder / "curves.svg").is_file()
    assert parts(run(), 0, Picture) == []


def test_a_loss_that_is_no_number_costs_only_its_place(run):
    """The page ended in ValueError: cannot convert float NaN to integer."""
    folder = run().results[0].folder
    (folder / "metrics.jsonl").write_text(
        '{"step": 0, "loss": NaN}\n{"step": 1, "loss": 2.0}\n{"step": 2, "loss": null}\n', encoding="utf-8"
    )
    assert "2 values are not finite and not drawn." in report_page(run())


def test_a_requirement_that_is_not_met_is_said_first(tmp_path):
    write_json(tmp_path / "done.json", {"numbers": {"accuracy": 0.5}})
    result = ReportedStage("card", "report-card", Result(tmp_path), "1", require={"accuracy": 0.65, "other": 1})
    assert gather_report(Run("run", (result,))).problems[:2] == (
        ("card", Like("… requires accuracy … 0.65 … 0.5 …")),
        ("card", Like("… recipe requires … 1 …")),
    )


def test_answers_that_stand_at_the_top_do_not_stand_twice(run):
    row = {"prompt": "say it", "completion": "an answer", "score": 1.0}
    folder = answered(run(), row, answer=0.5)
    lines = (json.dumps({**row, "completion": f"answer {n}."}) + "\n" for n in range(5))
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    write_json(
        folder / "dialogue.json", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello."}]
    )
    page = report_page(run())
    assert [page.count(f">answer {n}.<") for n in range(5)] == [1] * 5
    assert page.count(">hello.<") == 1
    assert page.index(">answer 2.<") < page.index('id="stage-evaluate"') < page.index(">answer 3.<")


def test_rollouts_show_the_same_prompt_at_the_start_and_at_the_end(tmp_path):
    fixed = {"prompt": [{"role": "user", "content": "hi"}], "reward": 0.5, "rewards": {"kind": 0.25}, "kl": None}
    rows = [
        {"step": step, "set": side, "answer": f"{side} {step}", "length": 3, "ended": True, **fixed}
        for step in (0, 5, 9)
        for side in ("train", "eval")
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = Run("run", (ReportedStage("ppo", "ppo", Result(tmp_path), "1"),))
    ends, sampled = parts(run, 0, Answers)
    assert [(side.name, side.text) for side in ends.rows[0].sides] == [("step 0", "eval 0"), ("step 9", "eval 9")]
    assert [row.sides[0].text for row in sampled.rows] == ["train 0", "train 5", "train 9"]
    assert sampled.rows[0].sides[0].verdict == "kind 0.250, length 3, reward 0.500"


@pytest.mark.parametrize(
    ("rate", "low", "high", "verdict"),
    [
        (0.96, 0.93, 0.98, "dpo is preferred to sft: dpo wins 96.0% of 40 pairs"),
        (0.04, 0.02, 0.07, "sft is preferred to dpo: dpo wins 4.0% of 40 pairs"),
        (0.62, 0.48, 0.73, "Neither dpo nor sft is clearly preferred: dpo wins 62.0% of 40 pairs"),
    ],
)
def test_the_page_of_a_judge_begins_with_its_verdict_and_the_interval(tmp_path, rate, low, high, verdict):
    numbers = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high, "pairs": 40, "models": ["dpo", "sft"]}
    folder = tmp_path / "judged" / "judge-0123456789ab"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", numbers)
    write_json(folder / "job.json", {"name": "judge", "kind": "judge", "fingerprint": "0123456789ab"})
    write_json(folder / "done.json", {"stage": "judge", "kind": "judge", "numbers": numbers})
    row = {"prompt": "hi", "answer": "yes", "other_answer": "no", "outcome": "win"}
    (folder / "verdicts.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    page = report_page(of_folder(folder))
    sentence = f"{verdict}, ties counted half (95 % interval {low:.1%} to {high:.1%})."
    places = [page.index(text) for text in (">judge of judged<", sentence, ">all pairs<", ">yes<", 'id="chain"')]
    assert places == sorted(places)
    assert page.count(sentence) == 1


def test_a_verdict_shows_who_won_and_what_the_judge_said(tmp_path):
    row = {"prompt": "hi", "answer": "yes", "other_answer": "no", "outcome": "loss", "why": "both"}
    asked = [{"first": "answer", "reply": "B is better", "verdict": "other_answer"}]
    (tmp_path / "verdicts.jsonl").write_text(json.dumps({**row, "asked": asked}) + "\n", encoding="utf-8")
    write_json(
        tmp_path / "metrics.json",
        {"models": ["dpo", "sft"], "win_rate": 0.25, "by_length": {"like": {"win_rate": 0.5}}},
    )
    run = Run("run", (ReportedStage("judge", "judge", Result(tmp_path), "1"),), subject="judge")
    (shown,) = parts(run, 0, Answers)
    assert [(side.name, side.text, side.verdict) for side in shown.rows[0].sides] == [
        ("dpo", "yes", "lost"),
        ("sft", "no", "won"),
    ]
    assert shown.rows[0].note == "why: both; the judge: B is better"
    (rates,) = parts(run, 0, Dots)
    assert rates.rows == [["all pairs", "25.0%"], ["similar length", "50.0%"]]


def test_a_loss_with_an_interval_is_no_share():
    found = {
        "eval_loss": 0.5,
        "eval_loss_low": 0.4,
        "eval_loss_high": 0.6,
        "baseline_eval_loss": 0.9,
        "reward_first": 1,
        "reward": 2,
    }
    loss, reward = numbers_of(found)
    assert (loss.text, loss.interval, loss.was, reward.was) == ("0.500", "0.400 to 0.600", 0.9, 1)


# Written once, and small


def test_the_same_files_give_the_same_bytes(run):
    assert report_page(run()) == report_page(run())


def test_a_page_is_current_until_a_result_changes(run, tmp_path):
    path = write(report_page(run()), tmp_path / "report.html")
    assert is_current(path, run())
    answered(run(), {"completion": "x"}, answer=1.0)
    assert not is_current(path, run())


def test_long_logs_and_large_pictures_leave_the_page_small(run):
    import numpy as np

    folder = answered(run(), {"completion": "word " * 50_000, "prompt": "x"}, answer=1.0)
    noise = np.random.default_rng(1).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    for number in range(5):
        Image.fromarray(noise).save(folder / f"{number}.png", compress_level=0)
    lines = "".join(json.dumps({"step": step, "loss": step / 7}) + "\n" for step in range(3_000))
    (run().results[0].folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    page = report_page(run())
    assert len(page.encode()) < 1_500_000
    assert "Every 25th of 3,000 logged values." in page
    assert "1 more pictures are in the folder." in page


# The commands


def test_the_command_writes_the_page_beside_the_results(made, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(made / "runs", runs)
    told = CliRunner().invoke(app, ["report", str(made / "tiny.yaml"), "--runs", str(runs)])
    assert told.exit_code == 0
    path = Path(told.stdout.strip())
    assert (path.name, path.parent.parent) == ("report.html", runs)
    again = CliRunner().invoke(app, ["report", str(path.parent), "--to", str(tmp_path / "own.html")])
    assert (again.exit_code, (tmp_path / "own.html").read_text(encoding="utf-8")[:15]) == (0, "<!doctype html>")


def test_without_a_name_the_command_lists_all_results_and_links_their_reports(made, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(made / "runs", runs)
    CliRunner().invoke(app, ["report", str(made / "tiny.yaml"), "--runs", str(runs)])
    told = CliRunner().invoke(app, ["report", "--runs", str(runs)])
    assert (told.exit_code, told.stdout.strip()) == (0, str(runs / "index.html"))
    page = (runs / "index.html").read_text(encoding="utf-8")
    assert "1 result of 1 recipe" in page
    assert f'<a href="{made.name}-tiny/report.html">' in page
    none = CliRunner().invoke(app, ["report", "--runs", str(tmp_path / "nowhere")])
    assert "nowhere: no such folder" in str(none.exception)
    assert not (tmp_path / "nowhere").exists()


def test_a_page_that_cannot_be_drawn_leaves_a_good_run_good(made, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    shutil.copytree(made / "runs", runs)
    (runs / f"{made.name}-tiny" / "report.html").unlink(missing_ok=True)

    def stumble(run):
        raise ValueError("cannot convert float NaN to integer")

    monkeypatch.setattr("ft.report.page.report_page", stumble)
    told = CliRunner().invoke(app, ["run", str(made / "tiny.yaml"), "--only", "sft", "--runs", str(runs)])
    assert told.exit_code == 0
    assert "report.html: no report: ValueError: cannot convert float NaN to integer" in told.stderr.replace("\n", "")


def test_a_run_ends_with_its_page_and_leaves_a_true_one_alone(made, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(made / "runs", runs)
    command = ["run", str(made / "tiny.yaml"), "--only", "sft", "--runs", str(runs)]
    told = CliRunner().invoke(app, command)
    path = runs / f"{made.name}-tiny" / "report.html"
    assert told.stderr == f"report: {path}\n"
    first = path.stat().st_mtime_ns
    assert CliRunner().invoke(app, command).exit_code == 0
    assert path.stat().st_mtime_ns == first
    done = next(runs.glob("*/sft-*/done.json"))
    write_json(done, {**read_json(done), "seconds": 77})
    CliRunner().invoke(app, command)
    assert ">1 min 17 s<" in path.read_text(encoding="utf-8")


def test_a_folder_without_results_is_refused(tmp_path):
    told = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert str(told.exception) == Like(f"{tmp_path}: … results … runs/RECIPE …")


def test_a_folder_tells_the_same_of_its_stages_as_the_recipe_does(run):
    planned = run().stages[0]
    (found,) = of_folder(planned.result.folder.parent).stages
    for name in ("name", "kind", "fingerprint", "state", "blocks", "links", "model"):
        assert getattr(found, name) == getattr(planned, name)
    assert found.result.numbers == planned.result.numbers != {}


def test_a_copy_of_a_run_has_each_stage_once_though_the_original_is_still_there(run, tmp_path):
    original = run().results[0].folder.parent
    write_json(
        original / "next-0123456789ab" / "job.json",
        {"name": "next", "kind": "sft", "init": str(run().results[0].folder)},
    )
    shutil.copytree(original, tmp_path / "copy")
    stages = of_folder(tmp_path / "copy").stages
    assert sorted(stage.name for stage in stages) == ["next", "sft"]
    assert {stage.result.folder.parent for stage in stages} == {tmp_path / "copy"}


# Several runs


@pytest.fixture
def two(run, made, tmp_path) -> list[Run]:
    """The run, and one with another learning rate that ended elsewhere."""
    first = run()
    plan = tiny.planned(made / "tiny.yaml", tmp_path / "runs", ["sft.train.learning_rate=0.5"])
    other = plan.stage("sft")
    shutil.copytree(first.results[0].folder, other.folder)
    done = read_json(first.results[0].folder / "done.json")
    done["numbers"] |= {"eval_loss": done["numbers"]["eval_loss"] + 0.25}
    write_json(other.folder / "done.json", done)
    write_json(other.folder / "key.json", other.key)
    return [first, of_plan(tiny.planned(made / "tiny.yaml", tmp_path / "runs", ["sft.train.learning_rate=0.5"]))]


def test_a_comparison_names_the_settings_that_differ_and_by_how_much_numbers_do(two):
    comparison = compare_runs(two)
    differing, *_, every_number = comparison.stages[0].sections
    assert differing.parts[0].rows == (("train.learning_rate", "0.01", "0.5"),)
    assert every_number.parts[0].head == ("", "A", "B", "B − A")
    assert every_number.parts[0].rows[0][3] == "+0.250"
    assert comparison.numbers.rows[0] == (
        f"sft: {every_number.parts[0].rows[0][0]}",
        *every_number.parts[0].rows[0][1:],
    )
    page = comparison_page(two)
    assert page.index("Main numbers") < page.index("Stages and their time") < page.index('id="stage-sft"')


def test_other_rows_and_other_results_are_told_by_their_names_and_no_hash_stands_in_the_text(two):
    first, other = two
    hashes = {"init": "ab" * 6, "data": [{"files": [[".jsonl", "cd" * 32]], "format": "messages"}]}
    stage = other.stages[0]
    changed = replace(
        stage, key={**stage.key, **hashes}, links=(("base", "init"),), data=({"path": "data/mine.jsonl"},)
    )
    runs = [first, replace(other, stages=(changed, *other.stages[1:]))]
    rows = {row[0]: row[1:] for row in compare_runs(runs).stages[0].sections[0].parts[0].rows}
    assert (rows["data"][1], rows["init"]) == ("data/mine.jsonl", ("·", "base"))
    page = comparison_page(runs)
    assert 'title="SHA-256 ' + "cd" * 32 in page
    assert not re.search(r"[0-9a-f]{12}", re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.DOTALL))


def test_answers_of_several_runs_to_the_same_prompt_stand_side_by_side(two, made, tmp_path):
    """Also where the runs evaluated under other names, and in a dialogue."""
    asked = {"prompt": [{"role": "user", "content": "hello"}], "score": 1.0}
    for run, text in zip(two, ("hi", "ho"), strict=True):
        folder = answered(run, {**asked, "completion": text, "baseline_completion": "?"}, answer=0.5)
        talk = [{"role": "user", "content": "bye"}, {"role": "assistant", "content": f"{text} bye"}]
        write_json(folder / "dialogue.json", talk)
    first, other = two
    other = replace(other, stages=(other.stages[0], replace(other.stages[1], name="test")))
    rows = compare_runs([first, other]).answers.rows
    shown = [(row.prompt[-1].text, [(side.name, side.text) for side in row.sides]) for row in rows]
    assert shown == [("hello", [("A", "hi"), ("B", "ho")]), ("bye", [("A", "hi bye"), ("B", "ho bye")])]
    assert compare_runs([first, first]).answers is None


def test_a_comparison_lays_curves_over_each_other(two):
    loss = compare_runs(two).stages[0].sections[1].parts[0].charts[0]
    assert [series.name for series in loss.series] == ["A held out", "B held out"]


def test_a_run_against_itself_has_no_differences(run):
    found = compare_runs([run(), run()])
    assert [(stage.same, stage.sections) for stage in found.stages] == [(True, ()), (False, ())]
    assert comparison_page([run(), run()]).count("The same result in all runs.") == 1


def test_of_a_stage_that_no_run_has_made_no_result_is_the_same(made, tmp_path):
    plan = tiny.planned(made / "tiny.yaml", tmp_path / "runs")
    page = comparison_page([of_plan(plan), of_plan(plan)])
    assert "The same result" not in page
    assert page.count("Done in fewer than two of the runs") == 2


def test_losses_over_other_held_out_rows_are_not_subtracted(two):
    first, other = two
    key = {**other.stages[0].key, "data": [{"path": "other.jsonl"}]}
    stages = (replace(other.stages[0], key=key), *other.stages[1:])
    numbers = compare_runs([first, replace(other, stages=stages)]).stages[0].sections[-1].parts[0]
    by_label = {row[0]: row[3] for row in numbers.rows}
    assert (by_label["eval loss"], by_label["steps"]) == ("·", "±0")
    assert "cannot be compared" in numbers.note


def test_nested_settings_are_told_apart_leaf_by_leaf():
    assert list(flat({"a": {"b": 1}, "c": [{"d": 2}, {"d": 3}], "e": []})) == [
        ("a.b", 1),
        ("c[1].d", 2),
        ("c[2].d", 3),
        ("e", []),
    ]
