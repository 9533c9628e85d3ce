"""A file that changes behind the plan: nothing that is read from it bears the name of what it held."""

import json
import shutil
from pathlib import Path

import pytest

import tiny
from ft.encode.prepare import rows_folder
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.models.identity import check_model_bytes
from ft.recipe.job import Job
from ft.run.rows import prepare_rows
from ft.run.stage import check_files

STAGE = {"kind": "sft", "train": {"max_length": 128, "max_steps": 1}}


def written(path: Path, answer: str) -> Path:
    messages = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": answer}]
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    return path


def test_rows_prepared_from_other_content_are_not_left_under_the_old_name(tmp_path: Path, base: Path) -> None:
    data = written(tmp_path / "rows.jsonl", "blue")
    recipe = tiny.recipe(tmp_path, [STAGE | {"data": [{"path": str(data)}]}], model=str(base))
    before = tiny.planned(recipe, tmp_path / "runs")
    written(data, "red, or so")
    with pytest.raises(UserError, match=r"rows.jsonl: changed after the plan was made from it\."):
        prepare_rows(before, before.stage("sft"))
    folder = rows_folder(before.runs, before.stage("sft").rows_key)
    assert not folder.exists()
    again = tiny.planned(recipe, tmp_path / "runs")
    prepare_rows(again, again.stage("sft"))
    assert rows_folder(again.runs, again.stage("sft").rows_key) != folder


def test_a_stage_is_given_the_hashes_and_the_template_of_the_plan(tmp_path: Path, base: Path) -> None:
    data = written(tmp_path / "rows.jsonl", "blue")
    template = tmp_path / "chat.jinja"
    template.write_text(tiny.tokenizer().chat_template, encoding="utf-8")
    stage = STAGE | {"data": [{"path": str(data)}]}
    plan = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(base), chat_template=str(template)), tmp_path / "runs")
    planned = plan.stage("sft")
    written(template, "another template")
    job = plan.job(planned)
    assert job.data[0]["sha256"] == [planned.key["data"][0]["files"][0][1]]
    assert job.template == tiny.tokenizer().chat_template


def test_a_bank_that_changed_stops_the_stage(tmp_path: Path) -> None:
    bank = written(tmp_path / "bank.yaml", "x")
    job = Job("gatt", "gatt", "f", tmp_path, 1, "x.yaml:1", files={str(bank): "0" * 64})
    with pytest.raises(UserError, match=r"bank.yaml: changed after the plan was made from it\."):
        check_files(job)


def test_a_model_that_changed_stops_the_stage_and_its_rows(tmp_path: Path, base: Path) -> None:
    model = Path(shutil.copytree(base, tmp_path / "model"))
    data = written(tmp_path / "rows.jsonl", "blue")
    recipe = tiny.recipe(tmp_path, [STAGE | {"data": [{"path": str(data)}]}], model=str(model))
    plan = tiny.planned(recipe, tmp_path / "runs")
    job = tiny.job(plan, "sft")
    write_json(job.folder / "key.json", plan.stage("sft").key)
    check_model_bytes(job)
    config = read_json(model / "config.json")
    write_json(model / "config.json", {**config, "rms_norm_eps": 0.5})
    with pytest.raises(UserError, match=r"model: changed after the plan was made from it\."):
        check_model_bytes(job)
    template = (model / "chat_template.jinja").read_text(encoding="utf-8")
    other = tiny.recipe(tmp_path, [STAGE | {"data": [{"path": str(data)}]}], model=str(model), seed=2)
    again = tiny.planned(other, tmp_path / "runs")
    (model / "chat_template.jinja").write_text(template + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"model: changed after the plan was made from it\."):
        prepare_rows(again, again.stage("sft"))
