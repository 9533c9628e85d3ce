"""What would stop a run later is said before it starts."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import tiny
from ft.errors import UserError
from ft.run.preflight import preflight
from wording import Like


@pytest.fixture
def problems(tmp_path, base, data):
    """What preflight says of a recipe whose stage has these `train:` keys, without the place."""

    def told(train):
        file = tiny.recipe(tmp_path, [tiny.sft(data, train)], model=str(base))
        try:
            preflight(tiny.planned(file, tmp_path / "runs").stages)
        except UserError as error:
            return [str(problem).removeprefix(f"{file}:4: ") for problem in error.problems]
        return []

    return told


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize("report_to", ["none", [], None])
def test_no_tracker_needs_nothing(report_to, problems):
    assert problems({"report_to": report_to}) == []


def test_an_unknown_tracker_is_refused(problems):
    assert problems({"report_to": "wanbd"}) == [Like("train.report_to: 'wanbd' …")]


def test_wandb_without_a_key_is_refused(problems):
    assert problems({"report_to": ["wandb"]}) == [Like("train.report_to: … WANDB_API_KEY … WANDB_MODE=offline …")]


@pytest.mark.parametrize(("name", "value"), [("WANDB_API_KEY", "k"), ("WANDB_MODE", "offline")])
def test_wandb_with_a_key_or_offline_passes(name, value, problems, monkeypatch):
    monkeypatch.setenv(name, value)
    assert problems({"report_to": "wandb"}) == []


def test_wandb_logged_in_by_netrc_passes(problems, tmp_path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n", encoding="utf-8")
    assert problems({"report_to": "wandb"}) == []


@pytest.mark.skipif(importlib.util.find_spec("trackio") is not None, reason="trackio is installed")
def test_a_tracker_that_is_not_installed_is_named_with_its_package(problems):
    assert problems({"report_to": "trackio"}) == ["train.report_to: trackio is not installed. pip install trackio"]


def test_a_space_that_nobody_is_logged_in_for_is_refused(problems, monkeypatch):
    monkeypatch.setattr("ft.run.preflight.is_installed", lambda name: True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert problems({"report_to": "trackio"}) == []
    train = {"report_to": "trackio", "trackio_space_id": "me/curves"}
    assert problems(train) == [Like("train.report_to: … token … Space 'me/curves'. Set HF_TOKEN, …")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("key", ["bf16", "fp16", "tf32"])
def test_half_precision_without_a_gpu_is_refused(key, problems):
    told = problems({key: True, "report_to": "wanbd"})
    assert len(told) == 2  # all at once
    assert told[1].startswith(f"the stage trains with {key}, and this machine has no GPU. Run it on a GPU, or try it")


def test_an_instruction_bank_that_is_wrong_is_told_before_the_stages_above_it_are_trained(tmp_path, base, data):
    (tmp_path / "bank.yaml").write_text("kinds: {brief: {full: []}}", encoding="utf-8")
    stages = [
        tiny.sft(data),
        {"kind": "gatt", "init": "$sft", "data": [{"path": str(data)}], "gatt": {"bank": "bank.yaml"}},
    ]
    there = tiny.planned(tiny.recipe(tmp_path, stages, model=str(base)), tmp_path / "runs")
    with pytest.raises(UserError, match=r"kind 'brief': full: is not a list of texts"):
        preflight(there.stages)
