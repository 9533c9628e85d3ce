"""An SFT stage learns, leaves what it has learnt for others to open, and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from bf16_kernel import switch
from ft.errors import UserError
from ft.files import read_json
from ft.models.load import load
from ft.stages import sft
from ft.training import padding_free as ragged
from wording import Like

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": tiny.LORA},
    "qlora": {"lora": tiny.LORA, "quantization": tiny.NF4},
    "int8": {"lora": tiny.LORA, "quantization": {"load_in_8bit": True}},
}
ADAPTERS = [name for name in METHODS if name != "full"]


def trainer(folder: Path, base: Path, data: Path, train: dict[str, Any] | None = None, **keys: Any) -> tuple[Any, Any]:
    """The trainer of a stage that is about to start, and its job."""
    there = tiny.planned(tiny.recipe(folder, [tiny.sft(data, train, **keys)], model=str(base)), folder / "runs")
    return tiny.trainer(there, "sft")


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_below_a_fifth_in_thirty_steps(method, tmp_path, base, data):
    numbers = tiny.trained(tmp_path, base, data, {"max_steps": 30}, **METHODS[method]).done["numbers"]
    assert numbers["steps"] == 30
    assert numbers["loss_last"] < 0.2 * numbers["loss_first"]


@pytest.mark.parametrize("method", METHODS)
def test_the_folder_opens_without_ft_and_is_the_model_that_was_trained(method, tmp_path, base, data, monkeypatch):
    switch(monkeypatch, False)  # test_bf16_kernel.py opens it with bitsandbytes' kernel
    trained, job = trainer(tmp_path, base, data, {"learning_rate": 1e-3}, **METHODS[method])
    sft.train_and_save(trained, job)
    quantised = METHODS[method].get("quantization")
    if method == "full":
        opened = AutoModelForCausalLM.from_pretrained(str(job.folder))
    elif quantised:
        how = BitsAndBytesConfig(**quantised)
        opened = AutoPeftModelForCausalLM.from_pretrained(str(job.folder), quantization_config=how)
    else:
        opened = AutoPeftModelForCausalLM.from_pretrained(str(job.folder))
    assert (logits(opened) - logits(trained.model)).abs().max() < 1e-5
    assert (logits(opened) - logits(AutoModelForCausalLM.from_pretrained(str(base)))).abs().max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_ft_loads_the_model_that_was_trained(method, tmp_path, base, data):
    trained, job = trainer(tmp_path, base, data, {"learning_rate": 1e-3}, **METHODS[method])
    sft.train_and_save(trained, job)
    assert (logits(load(job.folder, "float32", use_cpu=True)) - logits(trained.model)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters_are_float32_in_memory_and_on_disk(method, tmp_path, base, data):
    trained, job = trainer(tmp_path, base, data, **METHODS[method])
    assert {p.dtype for p in trained.model.parameters() if p.requires_grad} == {torch.float32}
    sft.train_and_save(trained, job)
    assert {value.dtype for value in tiny.weights(job.folder).values()} == {torch.float32}


@pytest.mark.parametrize("method", ADAPTERS)
def test_every_adapter_weight_matrix_moves_and_no_base_weight_does(method, tmp_path, base, data):
    trained, job = trainer(tmp_path, base, data, **METHODS[method])
    before = {name: value.detach().clone() for name, value in trained.model.named_parameters()}
    sft.train_and_save(trained, job)
    moved = {name for name, value in trained.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert len(moved) == 28  # A and B of seven matrices in two layers


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_second_stage_trains_the_first_ones_adapter_on(method, tmp_path, base, data):
    first = tiny.sft(data, name="first", **METHODS[method])
    second = tiny.sft(data, {"learning_rate": 1e-3}, name="second", init="$first", **METHODS[method])
    file = tiny.recipe(tmp_path, [first, second], model=str(base))
    runs = tmp_path / "runs"
    parent = tiny.make(tiny.planned(file, runs), "first")
    trained, job = tiny.trainer(tiny.planned(file, runs), "second")
    assert torch.equal(logits(trained.model), logits(load(parent.folder, "float32", use_cpu=True)))
    trained.model.train()
    sft.train_and_save(trained, job)
    assert tiny.weights(job.folder).keys() == tiny.weights(parent.folder).keys()
    assert (logits(load(job.folder, "float32", use_cpu=True)) - logits(trained.model)).abs().max() < 1e-5
    assert read_json(job.folder / "lineage.json") == read_json(parent.folder / "lineage.json")
    assert read_json(job.folder / "adapter_config.json")["base_model_name_or_path"] == str(base)


def test_a_second_stage_may_change_the_adapters_dropout(tmp_path, base, data):
    first = tiny.sft(data, name="first", lora=tiny.LORA)
    second = tiny.sft(data, name="second", init="$first", lora={**tiny.LORA, "lora_dropout": 0.25})
    file = tiny.recipe(tmp_path, [first, second], model=str(base))
    tiny.make(tiny.planned(file, tmp_path / "runs"), "first")
    trained, _ = tiny.trainer(tiny.planned(file, tmp_path / "runs"), "second")
    assert {m.p for m in trained.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def refusal(tmp_path: Path, base: Path, first: dict[str, Any], second: dict[str, Any]) -> str:
    file = tiny.recipe(tmp_path, [first, second], model=str(base))
    with pytest.raises(UserError) as refused:
        tiny.planned(file, tmp_path / "runs")
    return str(refused.value).replace(str(file), "FILE")


def test_a_full_fine_tune_over_an_adapter_is_refused(tmp_path, base, data):
    first, second = tiny.sft(data, lora=tiny.LORA), tiny.sft(data, name="second", init="$sft")
    assert refusal(tmp_path, base, first, second) == Like("FILE:21: '$sft' … 'second' … `lora:` …")


def test_another_adapter_shape_over_an_adapter_is_refused(tmp_path, base, data):
    first, second = tiny.sft(data, lora=tiny.LORA), tiny.sft(data, name="second", init="$sft")
    second["lora"] = {**tiny.LORA, "r": 4}
    assert refusal(tmp_path, base, first, second) == Like("FILE:21: … differs … '$sft's …")


def test_another_quantisation_under_an_adapter_is_refused(tmp_path, base, data):
    first = tiny.sft(data, lora=tiny.LORA, quantization=tiny.NF4)
    second = tiny.sft(data, name="second", init="$sft", lora=tiny.LORA)
    assert refusal(tmp_path, base, first, second) == Like("FILE:25: quantization … '$sft's …")


def test_training_quantised_weights_whole_is_refused(tmp_path, base, data):
    first, second = tiny.sft(data), tiny.sft(data, name="second", quantization=tiny.NF4)
    assert refusal(tmp_path, base, first, second) == Like("FILE:17: 'second' … `lora: {…}` … `quantization:` …")


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_changes_no_weight(method, tmp_path, base, data):
    left = [
        tiny.weights(
            tiny.trained(tmp_path / str(on), base, data, {"gradient_checkpointing": on}, **METHODS[method]).folder
        )
        for on in (False, True)
    ]
    assert max((left[0][name] - left[1][name]).abs().max() for name in left[0]) < 1e-6


def test_an_evaluation_before_training_changes_no_weight_of_a_quantised_run(tmp_path, base, data):
    keys = {**METHODS["qlora"], "rows": {"eval_fraction": 0.2}}
    alone = tiny.trained(tmp_path / "alone", base, data, **keys)
    judged = tiny.trained(tmp_path / "judged", base, data, {"eval_on_start": True}, **keys)
    assert alone.fingerprint == judged.fingerprint
    one, other = tiny.weights(alone.folder), tiny.weights(judged.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_keys_of_trl_reach_the_trainer(tmp_path, base, data):
    keys = {"neftune_noise_alpha": 5.0, "weight_decay": 0.125, "adam_beta2": 0.5}
    trained, _ = trainer(tmp_path, base, data, keys)
    assert {key: getattr(trained.args, key) for key in keys} == keys


def test_neftune_noise_changes_what_is_learnt(tmp_path, base, data):
    plain = tiny.weights(tiny.trained(tmp_path / "plain", base, data).folder)
    noisy = tiny.weights(tiny.trained(tmp_path / "noisy", base, data, {"neftune_noise_alpha": 5.0}).folder)
    assert any(not torch.equal(plain[name], noisy[name]) for name in plain)


def test_the_labels_that_reach_the_loss_are_the_prepared_ones(tmp_path, base, data):
    trained, _ = trainer(tmp_path, base, data)
    batch = next(iter(trained.get_train_dataloader()))
    prepared = {tuple(row["input_ids"]): row["labels"] for row in trained.train_dataset}
    words = trained.processing_class
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        length = int(mask.sum())
        assert labels[:length].tolist() == prepared[tuple(ids[:length].tolist())]
        assert labels[length:].tolist() == [-100] * (len(ids) - length)
        assert words.decode(labels[labels != -100]) in {f"{colour}<|im_end|>" for colour in tiny.COLOURS}


def test_half_precision_may_be_switched_off_in_the_recipe(tmp_path, base, data):
    trained, _ = trainer(tmp_path, base, data, {"bf16": False, "use_cpu": True})
    assert (trained.args.bf16, trained.args.use_cpu) == (False, True)


def test_evaluation_without_held_out_rows_is_refused(tmp_path, base, data):
    with pytest.raises(UserError, match=r"evaluation is asked for, and no row is held out\. Write `rows: {eval_f"):
        trainer(tmp_path, base, data, {"eval_strategy": "steps", "eval_steps": 2})


def test_the_best_checkpoint_is_what_is_left(tmp_path, base, data):
    train = {
        **{"learning_rate": 0.5, "max_steps": 3, "load_best_model_at_end": True, "eval_on_start": True},
        **{"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1},
    }
    stage = tiny.trained(tmp_path, base, data, train, rows={"eval_fraction": 0.2})
    state = read_json(stage.folder / "checkpoints" / "checkpoint-3" / "trainer_state.json")
    best = tiny.weights(stage.folder / "checkpoints" / f"checkpoint-{state['best_global_step']}")
    assert state["best_global_step"] != 3
    for _ in range(2):  # made, and made again after an interruption at the very end
        assert all(torch.equal(value, best[name]) for name, value in tiny.weights(stage.folder).items())
        (stage.folder / "done.json").unlink()
        tiny.make(tiny.planned(tmp_path / "tiny.yaml", tmp_path / "runs"), "sft")


def test_a_result_is_readable_for_others(tmp_path, base, data):
    folder = tiny.trained(tmp_path, base, data, {"max_steps": 1}).folder
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert not (folder / "training_args.bin").exists()  # a pickle


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_batch_trains_the_same_without_its_padding(method, tmp_path, base, data, monkeypatch):
    kept, _ = trainer(tmp_path / "kept", base, data, {"max_steps": 3}, **METHODS[method])
    monkeypatch.setattr(ragged, "leave_padding_out", lambda model: "")
    padded, _ = trainer(tmp_path / "padded", base, data, {"max_steps": 3}, **METHODS[method])
    lengths: list[int] = []
    kept.model.get_input_embeddings().register_forward_hook(lambda module, args, out: lengths.append(len(args[0])))
    for one in (kept, padded):
        one.train()
    assert set(lengths) == {1}  # the rows of a batch as one
    assert (logits(kept.model) - logits(padded.model)).abs().max() < 1e-4
    assert [line["loss"] for line in kept.state.log_history[:-1]] == pytest.approx(
        [line["loss"] for line in padded.state.log_history[:-1]], rel=1e-4
    )
