"""Which folder a stage has, what state it is in, and why it would run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

import tiny
from ft.errors import UserError
from ft.files import write_json
from ft.results.store import list_changes
from ft.run.run import choose_stages


@pytest.fixture
def chain(tmp_path, base, data) -> Path:
    """first → second, with an evaluation of each, and a third that starts anew."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"prompt": "1 sky?", "answer": "blue"}\n', encoding="utf-8")
    asked = {"kind": "evaluate", "data": [{"path": str(questions), "format": "prompt"}], "evaluate": {}}
    stages = [
        tiny.sft(data, name="first", rows={"eval_fraction": 0.2}),
        {**asked, "name": "judge-first", "init": "$first"},
        tiny.sft(data, name="second", init="$first"),
        {**asked, "name": "judge-second", "init": "$second"},
        tiny.sft(data, name="third"),
    ]
    return tiny.recipe(tmp_path / "recipes", stages, model=str(base))


def fingerprints(file: Path, runs: Path, *sets: str) -> dict[str, str]:
    return {p.name: p.fingerprint for p in tiny.planned(file, runs, sets).stages}


def differing(file: Path, runs: Path, *sets: str) -> list[str]:
    """Names of the stages whose results these settings would change."""
    before, after = fingerprints(file, runs), fingerprints(file, runs, *sets)
    return [name for name in before if before[name] != after[name]]


def finish(planned, seconds: int = 0) -> None:
    """The folder as a finished stage leaves it, `seconds` after the epoch."""
    write_json(planned.folder / "key.json", planned.key)
    write_json(planned.folder / "done.json", {"numbers": {}})
    os.utime(planned.folder / "key.json", (seconds, seconds))


def why(file: Path, runs: Path, *sets: str) -> dict[str, str]:
    return {p.name: p.why for p in tiny.planned(file, runs, sets).stages}


def test_a_stage_is_absent_then_interrupted_then_done(chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    first = there.stage("first")
    assert (first.state, first.why) == ("absent", "not run yet")
    assert first.folder == tmp_path / "runs" / "recipes-tiny" / f"first-{first.fingerprint}"
    first.folder.mkdir(parents=True)
    again = tiny.planned(chain, tmp_path / "runs").stage("first")
    assert (again.state, again.why) == ("unfinished", "was interrupted; continues")
    finish(first)
    done = tiny.planned(chain, tmp_path / "runs").stage("first")
    assert (done.state, done.why) == ("done", "")


@pytest.mark.parametrize(
    "cosmetic",
    [
        "logging_steps=7",
        "save_steps=9",
        "eval_steps=3",
        "report_to=wandb",
        "run_name=x",
        "per_device_eval_batch_size=3",
    ],
)
def test_what_is_logged_saved_or_shown_decides_nothing(cosmetic, chain, tmp_path):
    assert differing(chain, tmp_path / "runs", f"first.train.{cosmetic}") == []


@pytest.mark.parametrize("deciding", ["train.learning_rate=0.5", "train.max_length=48", "rows.train_on=last"])
def test_a_deciding_key_changes_the_stage_and_all_made_from_it(deciding, chain, tmp_path):
    made_from_first = ["first", "judge-first", "second", "judge-second"]
    assert differing(chain, tmp_path / "runs", f"first.{deciding}") == made_from_first


def test_a_deciding_key_far_down_changes_nothing_above(chain, tmp_path):
    assert differing(chain, tmp_path / "runs", "second.train.max_steps=9") == ["second", "judge-second"]
    assert differing(chain, tmp_path / "runs", "judge-first.evaluate.max_new_tokens=9") == ["judge-first"]


def test_the_seed_changes_everything(chain, tmp_path):
    assert differing(chain, tmp_path / "runs", "seed=2") == ["first", "judge-first", "second", "judge-second", "third"]


def test_what_is_saved_and_judged_decides_where_the_best_checkpoint_wins(chain, tmp_path):
    best = [
        f"third.train.{key}" for key in ("load_best_model_at_end=true", "eval_strategy=steps", "save_strategy=steps")
    ]
    best += ["third.train.eval_steps=2", "third.rows={eval_fraction: 0.2}"]
    runs = tmp_path / "runs"
    before = fingerprints(chain, runs, *best, "third.train.save_steps=2")
    after = fingerprints(chain, runs, *best, "third.train.save_steps=4")
    assert [name for name in before if before[name] != after[name]] == ["third"]


def test_requirements_decide_nothing(chain, tmp_path):
    assert differing(chain, tmp_path / "runs", "judge-first.require={answer: 0.5}") == []


def test_moving_the_recipe_or_its_rows_changes_nothing(tmp_path, base, data):
    for folder in ("here", "there/with spaces"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(data, tmp_path / "here" / "rows.jsonl")
    stage = {**tiny.sft(data), "data": [{"path": "rows.jsonl"}]}
    here = tiny.recipe(tmp_path / "here", [stage], model=str(base))
    before = fingerprints(here, tmp_path / "runs")
    for file in (here, tmp_path / "here" / "rows.jsonl"):
        file.rename(tmp_path / "there" / "with spaces" / file.name)
    assert fingerprints(tmp_path / "there" / "with spaces" / "tiny.yaml", tmp_path / "runs") == before


def test_renaming_the_rows_changes_nothing_and_one_byte_does(tmp_path, base, data):
    text = data.read_bytes()
    found = []
    for name, content in (("a.jsonl", text), ("b.jsonl", text), ("a.jsonl", text.replace(b"blue", b"blux", 1))):
        (tmp_path / name).write_bytes(content)
        file = tiny.recipe(tmp_path, [tiny.sft(tmp_path / name)], model=str(base))
        found.append(fingerprints(file, tmp_path / "runs")["sft"])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_moving_the_model_changes_nothing_and_other_weights_do(tmp_path, base, data):
    shutil.copytree(base, tmp_path / "moved")
    tiny.base(tmp_path / "other", seed=1)
    found = []
    for model in (base, tmp_path / "moved", tmp_path / "other"):
        file = tiny.recipe(tmp_path, [tiny.sft(data)], model=str(model))
        found.append(tiny.planned(file, tmp_path / "runs").stage("sft"))
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
    assert found[0].rows_key == found[2].rows_key  # rows mind the tokenizer, not the weights


def test_stages_of_one_tokenizer_share_prepared_rows(chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    assert there.stage("second").rows_key == there.stage("third").rows_key
    assert there.stage("first").rows_key != there.stage("third").rows_key  # it holds rows out


def test_why_names_the_keys_that_changed(chain, tmp_path):
    runs = tmp_path / "runs"
    for planned in tiny.planned(chain, runs).stages:
        finish(planned)
    sets = ("first.train.learning_rate=0.5", "first.train.weight_decay=0.1", "first.rows.train_on=last")
    assert why(chain, runs, *sets) == {
        "first": "train.learning_rate changed (0.01 → 0.5), train.weight_decay changed (None → 0.1), "
        "rows.train_on changed (None → last)",
        "judge-first": "its input first changed",
        "second": "its input first changed",
        "judge-second": "its input second changed",
        "third": "",
    }


def test_why_compares_with_the_latest_result(chain, tmp_path):
    runs = tmp_path / "runs"
    finish(tiny.planned(chain, runs, ["third.train.max_steps=2"]).stage("third"), seconds=200)
    finish(tiny.planned(chain, runs, ["third.train.max_steps=3"]).stage("third"), seconds=100)
    assert why(chain, runs)["third"] == "train.max_steps changed (2 → 4)"


def test_why_names_rows_that_changed(tmp_path, base, data):
    own = tmp_path / "rows.jsonl"
    shutil.copy(data, own)
    file = tiny.recipe(tmp_path, [tiny.sft(own)], model=str(base))
    finish(tiny.planned(file, tmp_path / "runs").stage("sft"))
    with own.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"prompt": "ink?", "completion": "black"}) + "\n")
    assert why(file, tmp_path / "runs") == {"sft": "data changed"}


def test_values_that_are_long_or_nested_are_only_named():
    before = {"train": {"beta": 0.1, "note": "a" * 40}, "data": [1], "model": {"weights": "abc"}}
    after = {"train": {"beta": 0.2, "note": "b" * 40}, "data": [2], "model": {"weights": "abd"}}
    assert list_changes(before, after) == [
        "train.beta changed (0.1 → 0.2)",
        "train.note changed",
        "data changed",
        "model.weights changed",
    ]


def test_a_result_finished_under_another_recipes_name_is_used(chain, tmp_path):
    runs = tmp_path / "runs"
    first = tiny.planned(chain, runs).stage("first")
    finish(first)
    copy = chain.with_name("renamed.yaml")
    shutil.copy(chain, copy)
    there = tiny.planned(copy, runs).stage("first")
    assert (there.state, there.folder) == ("done", first.folder)


def test_a_result_begun_under_another_recipes_name_is_not_touched(chain, tmp_path):
    runs = tmp_path / "runs"
    tiny.planned(chain, runs).stage("first").folder.mkdir(parents=True)
    copy = chain.with_name("renamed.yaml")
    shutil.copy(chain, copy)
    there = tiny.planned(copy, runs).stage("first")
    assert (there.state, there.folder.parent.name) == ("absent", "recipes-renamed")


@pytest.mark.parametrize(
    ("to", "stages"),
    [
        (None, ["first", "judge-first", "second", "judge-second", "third"]),
        ("first", ["first", "judge-first"]),
        ("second", ["first", "judge-first", "second", "judge-second"]),
        ("judge-second", ["first", "judge-first", "second", "judge-second"]),
        ("third", ["third"]),
    ],
)
def test_to_takes_what_a_stage_is_made_from_and_the_evaluations_of_these(to, stages, chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    assert [p.name for p in choose_stages(there, to, None)] == stages


def test_only_takes_one_stage(chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    assert [p.name for p in choose_stages(there, None, "second")] == ["second"]


def test_a_stage_that_is_not_there_is_named(chain, tmp_path):
    there = tiny.planned(chain, tmp_path / "runs")
    with pytest.raises(UserError) as refused:
        choose_stages(there, "fist", None)
    names = "first, judge-first, second, judge-second, third"
    assert str(refused.value) == f"{chain}: no stage 'fist'. There are: {names}."


def test_steps_are_counted_from_prepared_rows(tmp_path, base, data):
    train = {"max_steps": -1, "num_train_epochs": 3, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 5}
    file = tiny.recipe(tmp_path, [tiny.sft(data, train)], model=str(base))
    assert tiny.planned(file, tmp_path / "runs").stage("sft").steps is None
    planned = tiny.make(tiny.planned(file, tmp_path / "runs"), "sft")
    assert tiny.planned(file, tmp_path / "runs").stage("sft").steps == 9  # 32 rows: 7 batches, 3 steps an epoch
    assert planned.done["numbers"]["steps"] == 9


def test_rows_a_step_are_those_of_all_processes_unless_the_stage_says_them(tmp_path, base, data):
    train = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    for keys, found in (({}, [(4, 16), (8, 8)]), ({"global_batch": 16}, [(16, 4), (16, 4)])):
        file = tiny.recipe(tmp_path, [tiny.sft(data, train, **keys)], model=str(base))
        tiny.job(tiny.planned(file, tmp_path / "runs"), "sft")  # prepares 32 rows
        stages = [tiny.planned(file, tmp_path / "runs", processes=count).stage("sft") for count in (1, 2)]
        assert [(stage.batch, stage.steps) for stage in stages] == found
        assert stages[0].fingerprint == stages[1].fingerprint


def test_how_a_step_is_split_decides_nothing_where_the_stage_says_its_rows(tmp_path, base, data):
    names = set()
    for a_device in (1, 2, 8):
        stage = tiny.sft(data, {"per_device_train_batch_size": a_device}, global_batch=8)
        names.add(fingerprints(tiny.recipe(tmp_path, [stage], model=str(base)), tmp_path / "runs")["sft"])
    assert len(names) == 1
    assert differing(tmp_path / "tiny.yaml", tmp_path / "runs", "sft.global_batch=16") == ["sft"]


def test_a_plan_changes_no_file_but_its_cache(chain, tmp_path):
    runs = tmp_path / "runs"
    tiny.planned(chain, runs)
    assert [str(p.relative_to(runs)) for p in runs.rglob("*") if p.is_file()] == [".cache/hashes.json"]


def test_a_recipe_written_in_another_order_is_the_same(tmp_path, base, data):
    stage = tiny.sft(data)
    file = tiny.recipe(tmp_path, [stage], model=str(base))
    before = fingerprints(file, tmp_path / "runs")
    turned = {**dict(reversed(stage.items())), "train": dict(reversed(stage["train"].items()))}
    file.write_text(
        yaml.safe_dump({"stages": [turned], "model": str(base), "seed": 1}, sort_keys=False), encoding="utf-8"
    )
    assert fingerprints(file, tmp_path / "runs") == before
