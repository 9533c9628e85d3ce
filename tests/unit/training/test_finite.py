"""A number that is NaN or infinite stops a stage, which says at which step, in which row and where in the model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from ft.errors import UserError
from ft.files import read_lines
from ft.stages import sft
from ft.training.loop import save

PAIRS = [
    {"prompt": f"{thing}?", "chosen": colour, "rejected": "mud"}
    for thing, colour in zip(tiny.THINGS, tiny.COLOURS, strict=True)
]

MORE = {"reward": {"reward": {"margin": "none"}}}


def trainer(folder: Path, base: Path, data: Path, train: dict[str, Any] | None = None, **keys: Any) -> tuple[Any, Any]:
    plan = tiny.planned(tiny.recipe(folder, [tiny.sft(data, train, **keys)], model=str(base)), folder / "runs")
    return tiny.trainer(plan, "sft")


def with_nan(base: Path, folder: Path, name: str) -> Path:
    """The model with one NaN among its weights."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[7] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_loss_that_diverges_stops_the_stage_and_names_step_and_place(tmp_path, base, data):
    diverging, job = trainer(tmp_path, base, data, {"learning_rate": 1e20, "optim": "sgd", "max_grad_norm": 0.0})
    with pytest.raises(UserError, match=r"tiny\.yaml:\d+: the loss is nan after 1 step; .* model\.layers\.0") as error:
        sft.train_and_save(diverging, job)
    assert "learning rate" in str(error.value)
    assert not (job.folder / "model.safetensors").exists()


def test_weights_that_diverge_at_the_last_step_are_no_result(tmp_path, base, data):
    diverging, job = trainer(
        tmp_path, base, data, {"learning_rate": 3e38, "weight_decay": 1e6, "max_steps": 1, "optim": "sgd"}
    )
    with pytest.raises(UserError, match=r"after 1 steps the weights hold .*embed_tokens\.weight"):
        sft.train_and_save(diverging, job)
    assert not (job.folder / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_one_weight_of_nan_stops_a_stage_before_it_starts(kind, tmp_path, base, data):
    broken = with_nan(base, tmp_path / "broken", "model.layers.1.mlp.down_proj.weight")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    stage = tiny.sft(data) if kind == "sft" else {**tiny.sft(pairs), "kind": kind, **MORE.get(kind, {})}
    plan = tiny.planned(tiny.recipe(tmp_path, [stage], model=str(broken)), tmp_path / "runs")
    with pytest.raises(UserError, match=r"broken: .*model\.layers\.1\.mlp\.down_proj\.weight"):
        tiny.make(plan, kind)
    assert read_lines(plan.stage(kind).folder / "metrics.jsonl") == []


def test_the_row_and_the_module_are_named_where_a_loss_arises(tmp_path, base):
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "a"}]} for n in "12#4"]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stopping, job = trainer(tmp_path, base, data)
    token = stopping.processing_class.convert_tokens_to_ids("#")
    norm = stopping.model.model.layers[0].input_layernorm
    embedding = stopping.model.get_input_embeddings().weight

    def overflow(module, inputs, output):  # as one activation may that is large for one row alone
        broken = (inputs[0] == embedding[token]).all(-1, keepdim=True)
        return output.masked_fill(broken, float("inf"))

    norm.register_forward_hook(overflow)
    with pytest.raises(UserError, match=r"model\.layers\.0\.input_layernorm, at row .*rows\.jsonl:3"):
        sft.train_and_save(stopping, job)


def stop_as_one_of_two(job: Any, where: str, folder: Path) -> None:
    """Process 1 meets what is not finite; each writes how it ended."""
    rank = os.environ["RANK"]
    stopping = sft.trainer_of(job)
    module = stopping.model.model.layers[0].mlp.up_proj
    if rank == "1" and where == "loss":
        module.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    if rank == "1" and where == "gradient":
        module.weight.register_hook(lambda gradient: gradient * float("nan"))
    ended = "trained"
    try:
        sft.train_and_save(stopping, job)
    except (UserError, RuntimeError) as error:  # gloo's, of a process that is gone
        ended = f"{type(error).__name__}: {error}"
    (folder / f"{where}-{rank}").write_text(ended, encoding="utf-8")
    os._exit(0)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the processes would take GPUs")
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_of_several_processes_the_one_that_has_it_says_where_and_all_end(where, tmp_path, base, data):
    plan = tiny.planned(tiny.recipe(tmp_path, [tiny.sft(data)], model=str(base)), tmp_path / "runs", processes=2)
    tiny.by_two(stop_as_one_of_two, tiny.job(plan, "sft"), where, tmp_path)
    ends = [(tmp_path / f"{where}-{rank}").read_text(encoding="utf-8") for rank in range(2)]
    assert f"UserError: {plan.stage('sft').stage.where}: the {where} is nan" in ends[1]
    assert "it arises in model.layers.0.mlp.up_proj" in ends[1]
    assert "of process 1" in ends[1]
    assert ends[0] == ends[1] if where == "gradient" else ends[0].startswith("RuntimeError")


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path, base, data):
    stopping, job = trainer(tmp_path, base, data)
    weight = stopping.model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match=r"gradient is nan .*model\.layers\.0\.mlp\.up_proj\.weight"):
        sft.train_and_save(stopping, job)
    assert torch.equal(weight, before)


def test_a_step_that_a_gradient_scaler_skips_is_no_fault(tmp_path, base, data):
    """fp16 begins with too large a scale: the first steps overflow and are skipped, by design."""
    scaled, job = trainer(tmp_path, base, data, {"max_steps": 2})
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    factors = iter([float("inf"), 1.0])
    scaled.model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * next(factors))
    sft.train_and_save(scaled, job)
    norms = [line["grad_norm"] for line in read_lines(job.folder / "metrics.jsonl") if "grad_norm" in line]
    assert norms[0] is None
    assert norms[1] > 0


def test_saving_refuses_weights_that_are_not_finite(tmp_path, base, data):
    broken, job = trainer(tmp_path, base, data)
    broken.model.lm_head.weight.data[3, 3] = float("inf")
    with pytest.raises(UserError, match=r"lm_head\.weight"):
        save(broken, job)
