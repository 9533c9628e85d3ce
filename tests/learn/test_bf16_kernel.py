"""A QLoRA result on both sorts of CPU: with bitsandbytes' kernel for AVX512-BF16, and without it.

The weights are the same. What ft makes of them is too, since it leaves the kernel off; whoever opens the folder without
ft gets the kernel where the CPU has it, and products in bfloat16.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import BitsAndBytesConfig

import tiny
from bf16_kernel import switch
from ft.export.trained_model import TrainedModel
from ft.export.writing import ExportOptions, export
from ft.models.load import load, load_scorer
from ft.models.merge import trained

DOCUMENT = tiny.ROOT / "docs" / "export.md"
QLORA = {"lora": tiny.LORA, "quantization": tiny.NF4}
TRAIN = {"max_steps": 20, "eval_on_start": True}  # the first evaluation is what packs the weights
KERNEL = pytest.mark.parametrize("kernel", [False, True], ids=["without the kernel", "with the kernel"])


def made(folder: Path, base: Path, data: Path, kind: str = "sft", kernel: bool = False) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        switch(monkeypatch, kernel)
        return tiny.trained(
            folder, base, data, TRAIN, rows={"eval_fraction": 0.2}, kind=kind, name="sft", **QLORA
        ).folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    """A QLoRA model, made without the kernel."""
    return made(tmp_path_factory.mktemp("chat"), base, data)


@pytest.fixture(scope="module")
def expected(chat: Path) -> torch.Tensor:
    """Its logits, computed in float32."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        switch(monkeypatch, False)
        return logits(load(chat, "float32", use_cpu=True))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40).reshape(2, 20)).logits.float()


def opened_without_ft(folder: Path) -> Any:
    return AutoPeftModelForCausalLM.from_pretrained(
        str(folder), quantization_config=BitsAndBytesConfig(**tiny.NF4), dtype=torch.float32
    ).eval()


def test_training_and_its_evaluations_are_the_same_to_the_bit(chat, tmp_path, base, data):
    one, other = tiny.weights(chat), tiny.weights(made(tmp_path, base, data, kernel=True))
    assert all(torch.equal(one[name], other[name]) for name in one)


@KERNEL
@pytest.mark.parametrize("read", [load, trained])  # evaluations, judges and chat; exports
def test_whatever_ft_loads_computes_the_same_to_the_bit(read, kernel, chat, expected, monkeypatch):
    switch(monkeypatch, kernel)
    assert torch.equal(logits(read(chat, "float32", use_cpu=True)), expected)


def test_a_reward_model_scores_the_same_to_the_bit(tmp_path, base, monkeypatch):
    answers = {
        side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "oh, blue"), ("rejected", "red"))
    }
    pairs = [
        {"prompt": [{"role": "user", "content": f"{number} sky?"}], "rating": 1, **answers} for number in range(16)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs), encoding="utf-8")
    folder = made(tmp_path, base, file, kind="reward")
    scores = []
    for kernel in (False, True):
        switch(monkeypatch, kernel)
        scores.append(logits(load_scorer(folder, "float32", use_cpu=True)))
    assert torch.equal(*scores)


def test_an_export_is_the_model_that_was_trained(chat, tmp_path, monkeypatch):
    switch(monkeypatch, True)
    compared = export(TrainedModel.read(chat), ExportOptions(tmp_path / "merged", dtype="float32"))["compared"]
    assert compared["gated"]
    assert compared["saved"]["max_difference"] < 1e-4


@KERNEL
def test_without_ft_the_weights_are_the_same(kernel, chat, monkeypatch):
    switch(monkeypatch, False)
    ours = load(chat, "float32", use_cpu=True).state_dict()
    switch(monkeypatch, kernel)
    theirs = opened_without_ft(chat).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_ft_and_without_the_kernel_the_logits_are_those_of_training(chat, expected, monkeypatch):
    switch(monkeypatch, False)
    assert (logits(opened_without_ft(chat)) - expected).abs().max() < 1e-5


def test_without_ft_the_kernel_rounds_to_bfloat16_and_changes_no_more(chat, expected, monkeypatch):
    switch(monkeypatch, True)
    found = logits(opened_without_ft(chat))
    off = (found - expected).abs().max() / expected.abs().max()
    assert 2**-12 < off < 2**-5  # bfloat16 has steps of 2^-8, and the layers add theirs up
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


def test_the_lines_in_the_document_switch_the_kernel_off(chat, expected, monkeypatch):
    switch(monkeypatch, True)
    codes = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.S)
    [lines] = [code for code in codes if "avx512" in code]
    model = opened_without_ft(chat)
    exec(lines, {"model": model})
    assert (logits(model) - expected).abs().max() < 1e-5
