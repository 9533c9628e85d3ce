"""Every shipped recipe is read and planned: without network, weights or notices of old names."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

import tiny
from ft.fit.gpus import gpu
from ft.fit.sharding import Sharding
from ft.fit.table import fit_plan
from ft.recipe import Recipe, read
from ft.recipe.job import Job
from ft.results.store import plan
from ft.stages import STAGES

ROOT = tiny.ROOT
# Recipes that `ft new` wrote stand in recipes/ itself and are their owner's.
RECIPES = sorted(p for p in (ROOT / "recipes").glob("*/**/*.yaml") if "accelerate" not in p.parts)


def shipped(name: str) -> Recipe:
    return read(ROOT / "recipes" / name, STAGES)


def train(name: str) -> dict[str, Any]:
    return dict(shipped(name).stage("sft").blocks["train"])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("planning asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_there_are_recipes_for_four_families_and_the_embedded_model():
    folders = {p.parent.name for p in RECIPES}
    assert {"tiny", "llama2-7b", "llama3-8b", "mistral-7b", "zephyr-7b"} <= folders


def test_the_readme_lists_every_recipe():
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in RECIPES if f"({p.relative_to(ROOT / 'recipes')})" not in text] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
@pytest.mark.usefixtures("no_network")
def test_a_shipped_recipe_plans_offline_and_uses_present_names(file: Path, tmp_path: Path):
    recipe = read(file, STAGES)
    assert recipe.notices == ()
    assert [p.state for p in plan(recipe, tmp_path).stages] == ["absent"] * len(recipe.stages)


@pytest.mark.parametrize("file", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_a_stage_is_given_can_be_written_and_read_back(file: Path, tmp_path: Path):
    there = plan(read(file, STAGES), tmp_path)
    for planned in there.stages:
        job = there.job(planned)
        job.folder.mkdir(parents=True)
        assert Job.read(job.write()) == job


@pytest.mark.parametrize("file", [p for p in RECIPES if p.parent.name != "tiny"], ids=lambda p: p.parent.name + p.stem)
def test_a_recipe_for_a_real_model_holds_rows_out_and_never_packs_more_than_one_row_a_batch(file: Path):
    for stage in read(file, STAGES).stages:
        if "train" in stage.blocks:
            assert stage.eval_data or stage.blocks["rows"].get("eval_fraction")
            train = stage.blocks["train"]
            assert not train.get("packing") or train["per_device_train_batch_size"] == 1


QLORA = [p for p in RECIPES if p.parent.name != "tiny" and "quantization:" in p.read_text(encoding="utf-8")]
QLORA = [p for p in QLORA if not p.parent.name.startswith("blip2")]  # whose memory is not estimated


@pytest.mark.parametrize("file", QLORA, ids=lambda p: f"{p.parent.name}/{p.name}")
@pytest.mark.usefixtures("no_network")
def test_every_stage_of_a_qlora_recipe_fits_on_a_card_of_24_gib(file: Path, tmp_path: Path):
    found = fit_plan(plan(read(file, STAGES), tmp_path), gpu("24"), Sharding())
    assert [f"{row.fit.stage}: {row.fit.problem}" for row in found.rows if row.fit.problem] == []
    assert [f"{row.fit.stage} at {row.fit.peak.name}" for row in found.rows if not row.fit.fits(found.gpu)] == []


@pytest.mark.usefixtures("no_network")
def test_the_whole_llama_2_chain_has_an_estimate_of_every_stage(tmp_path: Path):
    found = fit_plan(plan(shipped("llama2-7b/llama2-chat.yaml"), tmp_path), gpu("80"), Sharding())
    assert [f"{row.fit.stage}: {row.fit.problem}" for row in found.rows if row.fit.problem] == []
    assert {"helpful", "safety", "answers-4", "policy-4", "ppo", "gatt", "chat"} <= {
        row.fit.stage for row in found.rows
    }


@pytest.mark.parametrize("name", ["llama2-chat.yaml", "llama2-chat-qlora.yaml"])
def test_the_whole_llama_2_chain_repeats_its_numbers_as_the_recipes_of_its_parts_have_them(name: str):
    chain, end = shipped(f"llama2-7b/{name}"), name.removeprefix("llama2-chat")
    assert (
        shipped(f"llama2-7b/ppo{end}").stage("ppo").blocks["train"].items()
        <= chain.stage("ppo").blocks["train"].items()
    )
    sampling = shipped(f"llama2-7b/rejection-sampling{end}")
    for number in (1, 4):
        assert chain.stage(f"answers-{number}").blocks["sample"] == sampling.stage("sample").blocks["sample"]
        assert chain.stage(f"policy-{number}").blocks["train"] == sampling.stage("best-sft").blocks["train"]


def test_the_embedded_chain_shares_sft_and_reward_models_with_the_recipes_of_its_parts(tmp_path: Path):
    chain, parts = (plan(shipped(f"tiny/{name}.yaml"), tmp_path) for name in ("llama2", "reward"))
    shared = ("sft", "helpful", "safety", "helpful-card", "safety-card")
    assert [chain.stage(one).fingerprint for one in shared] == [parts.stage(one).fingerprint for one in shared]


def test_llama_2_sft_holds_the_numbers_of_the_paper():
    assert {key: train("llama2-7b/sft.yaml")[key] for key in PAPER} == PAPER


def test_llama_2_sft_steps_are_64_sequences():
    values = train("llama2-7b/sft.yaml")
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] == 64


def test_llama_2_sft_trains_the_base_model_whole_on_answers_only():
    recipe = shipped("llama2-7b/sft.yaml")
    assert recipe.model.path == "meta-llama/Llama-2-7b-hf"
    assert recipe.chat_template == "llama2"
    assert recipe.stage("sft").blocks["rows"]["train_on"] == "assistant"
    assert set(recipe.stage("sft").blocks) == {"train", "rows"}


def test_llama_2_qlora_holds_the_numbers_of_the_demo_notebook():
    stage = shipped("llama2-7b/sft-qlora.yaml").stage("sft")
    assert stage.blocks["lora"] == {
        "r": 64,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "target_modules": ["q_proj", "v_proj"],
    }
    assert stage.blocks["quantization"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float16",
    }
    assert {key: stage.blocks["train"][key] for key in NOTEBOOK} == NOTEBOOK
    assert stage.data[0]["rows"] == 1000


def test_llama_2_chat_starts_from_the_base_model_with_adapters_on_every_layer():
    recipe = shipped("llama2-7b/chat.yaml")
    assert recipe.model.path == "meta-llama/Llama-2-7b-hf"
    assert recipe.stage("sft").blocks["lora"]["target_modules"] == "all-linear"
    assert recipe.stage("sft").blocks["train"]["bf16"] is True
    assert recipe.stage("sft").blocks["train"]["fp16"] is False


@pytest.mark.parametrize("name", ["llama2-7b/chat.yaml", "llama3-8b/sft-qlora.yaml", "mistral-7b/sft-qlora.yaml"])
def test_qlora_for_24_gb_computes_in_bfloat16_on_doubly_quantised_nf4(name: str):
    assert shipped(name).stage("sft").blocks["quantization"] == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }


PAPER = {  # arXiv:2307.09288, section 3.1; betas, epsilon and clipping from 2.2
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-5,
    "max_grad_norm": 1.0,
    "num_train_epochs": 2.0,
    "max_length": 4096,
    "packing": True,
}
NOTEBOOK = {
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 0.001,
    "optim": "paged_adamw_32bit",
    "max_grad_norm": 0.3,
    "num_train_epochs": 1.0,
    "max_length": 1024,
    "packing": False,
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "fp16": True,
    "bf16": False,
}


def test_recipes_for_summaries_hold_the_published_numbers():
    recipe = shipped("mistral-7b/summarize-dpo.yaml")
    blocks = {stage.name: stage.blocks for stage in recipe.stages}
    assert blocks["questions"]["questions"].items() >= {"count": 5, "reply_tokens": 4096}.items()
    assert blocks["drafts"]["sample"].items() >= {"samples": 10, "temperature": 0.8, "top_p": 0.95}.items()
    published = {"function": "code", "threshold": 3, "min_difference": 3, "least_words": 5, "most_words": 200}
    assert blocks["pairs"]["preferences"].items() >= {**published, "pairs": 3}.items()
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.05}
    for name in ("summarize-dpo", "summarize-dpo-qlora"):
        policy = shipped(f"mistral-7b/{name}.yaml").stage("policy").blocks
        train = policy["train"]
        assert train.items() >= {"beta": 0.01, "num_train_epochs": 3, "max_length": 4096}.items()
        assert train["learning_rate"] == 5e-6
        assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 24
        assert policy["lora"].items() >= lora.items()
        assert len(policy["lora"]["target_modules"]) == 7
    chain = shipped("mistral-7b/summarize-iterative.yaml")
    qlora = shipped("mistral-7b/summarize-dpo-qlora.yaml")
    for block in ("train", "lora", "quantization"):
        assert chain.stage("newest-2").blocks[block] == qlora.stage("policy").blocks[block]
