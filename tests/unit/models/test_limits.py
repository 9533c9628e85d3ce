"""What the model at hand cannot do is said before training, in ft's words: by the plan where config.json tells."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, OPTConfig, OPTForCausalLM

import tiny
from ft.errors import UserError
from ft.files import read_json, write_json
from ft.models.adapters import with_adapter, with_scoring_adapter
from ft.models.generation.chat_model import ChatModel
from ft.models.generation.engine import Engine, Request
from ft.models.generation.sampling import Sampling
from ft.models.load import load_base, load_scorer_base
from ft.recipe import ModelSource
from ft.stages.sft import trainer_of

LAST_ONLY = """{%- for m in messages -%}{{- ('User: ' if m.role == 'user' else 'Reply: ') + m.content + '\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- 'Reply: ' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"""


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    tiny.tokenizer().save_pretrained(str(folder))
    return folder


def small_gpt2(folder: Path) -> Path:
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48, "vocab_size": 259}
    return saved(GPT2LMHeadModel(GPT2Config(**size, bos_token_id=256, eos_token_id=256)), folder)


def planned(folder: Path, model: Path, data: Path, *stages: dict[str, Any], **top: Any) -> Any:
    return tiny.planned(tiny.recipe(folder, list(stages) or [tiny.sft(data)], model=str(model), **top), folder / "runs")


def problems(*arguments: Any) -> list[str]:
    with pytest.raises(UserError) as refused:
        planned(*arguments)
    return str(refused.value).splitlines()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with fewer embeddings than its tokenizer has tokens."""
    torch.manual_seed(0)
    config = tiny.config(tiny.tokenizer())
    config.vocab_size, config.pad_token_id, config.eos_token_id = 257, 0, 256
    return saved(LlamaForCausalLM(config), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def tied(tmp_path: Path, base: Path) -> Path:
    folder = Path(shutil.copytree(base, tmp_path / "tied"))
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "tie_word_embeddings": True})
    return folder


def test_adapters_that_cannot_be_trained_are_refused_by_the_plan_all_at_once(tmp_path, tied, data):
    blocks = {
        "first": ({"target_modules": ["q_proj", "lm_head"]}, "lm_head is not trained"),
        "second": ({"target_modules": ".*"}, "lm_head is not trained"),
        "third": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        "fourth": ({"target_modules": ["q_proj", "v_porj"]}, "no module 'v_porj'. Did you mean 'v_proj'?"),
        "fifth": (
            {"target_modules": "model.nothing"},
            "no module 'model.nothing'. There are: down_proj, embed_tokens, ",
        ),
    }
    stages = (tiny.sft(data, name=name, lora=tiny.LORA | block) for name, (block, _) in blocks.items())
    lines = problems(tmp_path, tied, data, *stages)
    assert len(lines) == len(blocks)
    for line, (name, (_, words)) in zip(lines, blocks.items(), strict=True):
        assert "tiny.yaml:" in line
        assert f"'{name}'" in line
        assert words in line


@pytest.mark.parametrize("init", ["corda", "eva", "lora_ga", "loftq"])
def test_initialisations_that_ft_cannot_make_are_refused_whatever_the_model(init, tmp_path, data):
    stage = tiny.sft(data, lora=tiny.LORA | {"init_lora_weights": init})
    with pytest.raises(UserError, match=rf"tiny\.yaml:\d+: lora\.init_lora_weights '?{init}'? is refused"):
        tiny.checked(tiny.recipe(tmp_path, [stage], model="owner/name"))


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_a_name_that_matches_no_module_is_refused_where_files_do_not_tell(kind, base):
    model = (load_scorer_base if kind == "reward" else load_base)(ModelSource(str(base)), "float32", None, True)
    put = with_scoring_adapter if kind == "reward" else with_adapter
    with pytest.raises(UserError, match="lora: target_modules: the model has no module 'v_porj'"):
        put(model, None, tiny.LORA | {"target_modules": ["q_proj", "v_porj"]})


def test_a_model_of_the_hub_is_looked_at_as_far_as_its_cache_goes(tmp_path, tied, data, monkeypatch):
    """The config alone lies there, as after `ft plan --gpu`."""
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc", encoding="utf-8")
    shutil.copy(tied / "config.json", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(snapshot.parents[2]))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(snapshot.parents[2]), raising=False)
    stage = tiny.sft(data, {"max_length": 500}, lora=tiny.LORA | {"trainable_token_indices": [1]})
    recipe = tiny.recipe(tmp_path, [stage], model="owner/name")
    with pytest.raises(UserError, match="trainable_token_indices, and the model's embeddings are its output too"):
        tiny.planned(recipe, tmp_path / "runs")


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "layers.1.mlp.up_proj"], r".*\.1\..*_proj"])
def test_target_modules_that_are_there_are_taken(targets, tmp_path, base, data):
    planned(tmp_path, base, data, tiny.sft(data, lora=tiny.LORA | {"target_modules": targets}))


def test_untied_embeddings_take_trainable_token_indices(tmp_path, base, data):
    planned(tmp_path, base, data, tiny.sft(data, lora=tiny.LORA | {"trainable_token_indices": [1]}))


def test_an_initialisation_with_a_number_in_its_name_is_taken(tmp_path, base, data):
    planned(tmp_path, base, data, tiny.sft(data, lora=tiny.LORA | {"init_lora_weights": "pissa_niter_4"}))
    (line,) = problems(tmp_path, base, data, tiny.sft(data, lora=tiny.LORA | {"init_lora_weights": "pissa_niter_x"}))
    assert "init_lora_weights is 'pissa_niter_x'" in line


def test_what_peft_refuses_is_said_in_words(tmp_path, base, data):
    there = planned(
        tmp_path,
        base,
        data,
        tiny.sft(data, lora=tiny.LORA | {"target_modules": ["q_proj"], "layers_to_transform": [9]}),
    )
    with pytest.raises(UserError, match=r"lora: PEFT cannot put it on this model"):
        trainer_of(tiny.job(there, "sft"))


def test_rows_longer_than_learnt_positions_are_refused_by_the_plan(tmp_path, data):
    (line,) = problems(tmp_path, small_gpt2(tmp_path / "gpt2"), data)
    assert "train.max_length is 64, and the model has 48 positions. Write max_length: 48." in line


def test_other_models_with_learnt_positions_are_known(tmp_path, data):
    size = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 259}
    model = OPTForCausalLM(OPTConfig(**size, max_position_embeddings=20, word_embed_proj_dim=32, pad_token_id=0))
    (line,) = problems(tmp_path, saved(model, tmp_path / "opt"), data)
    assert "train.max_length is 64, and the model has 20 positions. Write max_length: 20." in line


@pytest.mark.parametrize(("scaling", "warned"), [({}, True), ({"rope_type": "yarn", "factor": 4.0}, False)])
def test_rows_longer_than_rotary_positions_are_warned_of_unless_they_are_scaled(
    scaling, warned, tmp_path, data, caplog
):
    config = tiny.config(tiny.tokenizer())
    config.max_position_embeddings = 20
    config.rope_parameters = {**config.rope_parameters, **scaling}
    there = planned(tmp_path, saved(LlamaForCausalLM(config), tmp_path / "llama"), data)
    words = "train.max_length is 64, and the model knows 20 positions (max_position_embeddings)"
    assert [words in notice for notice in there.notices] == [True] * warned
    with caplog.at_level(logging.WARNING):
        trainer_of(tiny.job(there, "sft"))
    assert ("and the model 20 positions" in caplog.text) is warned


def test_ids_without_an_embedding_are_refused_before_training(tmp_path, data, small):
    there = planned(tmp_path, small, data)
    with pytest.raises(UserError, match="rows hold the token 258, and the model has embeddings of 257"):
        trainer_of(tiny.job(there, "sft"))


def test_a_template_that_ends_only_the_last_answer_trains_the_last(tmp_path, base, data):
    (tmp_path / "last.jinja").write_text(LAST_ONLY, encoding="utf-8")
    template = {"chat_template": str(tmp_path / "last.jinja")}
    there = planned(tmp_path, base, data, tiny.sft(data, rows={"train_on": "last"}), **template)
    assert trainer_of(tiny.job(there, "sft")).model.generation_config.eos_token_id == [256]
    every = planned(tmp_path, base, data, tiny.sft(data), **template)
    with pytest.raises(UserError, match="Set train_on: last"):
        tiny.job(every, "sft")


def test_a_token_without_an_embedding_is_refused_whoever_gives_it(small):
    chat = ChatModel(None, small)
    with pytest.raises(UserError, match=r"small: rows hold the token 258, and the model has embeddings of 257"):
        chat.answer([[{"role": "user", "content": "hi"}]], Sampling(max_new_tokens=2))
    base = ModelSource(str(small))
    for model in (load_base(base, "float32", None, True), load_scorer_base(base, "float32", None, True)):
        assert model(input_ids=torch.tensor([[1, 256]])).logits.isfinite().all()
        with pytest.raises(UserError, match="rows hold the token 257"):
            model(input_ids=torch.tensor([[1, 257]]))


PROMPTS = [{"prompt": f"{n} {tiny.THINGS[n % 8]}?", "answer": tiny.COLOURS[n % 8]} for n in range(8)]
ANSWERING: dict[str, dict[str, Any]] = {
    "evaluate": {"evaluate": {"max_new_tokens": 4}},
    "sample": {"sample": {"samples": 2, "rewards": {"answer": 1.0}, "max_new_tokens": 4}},
    "judge": {"judge": {"kind": "function", "function": "answer", "max_new_tokens": 4}},
    "ppo": {"train": {"generation_batch_size": 8}},
    "rloo": {"train": {"num_generations": 2}},
    "grpo": {"train": {"num_generations": 2}},
}
ON_REWARDS = {
    "rows": {"eval_fraction": 0.0},
    "reward": {"rewards": {"answer": 1.0}},
    "guard": {"cut": 1.0, "kept": 0},
}
STEP = {
    **{"max_completion_length": 4, "max_steps": 1, "per_device_train_batch_size": 8, "gradient_checkpointing": False},
    **{"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "load_best_model_at_end": False},
}


@pytest.mark.parametrize("kind", ANSWERING)
def test_every_kind_that_answers_refuses_a_token_without_an_embedding(kind, tmp_path, data, small, base):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS), encoding="utf-8")
    stage: dict[str, Any] = {"kind": kind, "data": [{"path": str(tmp_path / "prompts.jsonl")}], **ANSWERING[kind]}
    if "train" in stage:
        stage |= {"train": STEP | stage["train"], **ON_REWARDS}
    if kind == "judge":
        stage["inputs"] = {"other": "$other"}
    above = [tiny.sft(data, {"max_steps": 1}, name="other", model=str(base))] if kind == "judge" else []
    file = tiny.recipe(tmp_path, [*above, stage], model=str(small))
    for one in [*above, {"name": kind}]:
        there = tiny.planned(file, tmp_path / "runs")
        if one["name"] == "other":
            tiny.make(there, "other")
            continue
        with pytest.raises(UserError, match=r"small: rows hold the token 258, and the model has embeddings of 257"):
            tiny.make(there, kind)


def test_what_lies_behind_learnt_positions_is_refused_whoever_reads_it(tmp_path):
    """In a forward pass of any stage, and by the engine, which ends an answer where they end."""
    model = load_base(ModelSource(str(small_gpt2(tmp_path / "gpt2"))), "float32", None, True).eval()

    def read(length: int, cached: int) -> Any:
        cache = model(input_ids=torch.ones(1, cached, dtype=torch.long)).past_key_values if cached else None
        return model(input_ids=torch.ones(1, length, dtype=torch.long), past_key_values=cache)

    for cached in (0, 47):
        assert read(48 - cached, cached).logits.isfinite().all()
        with pytest.raises(UserError, match="gpt2: a row has 49 tokens, and the model 48 positions"):
            read(49 - cached, cached)
    adapted = with_adapter(model, None, tiny.LORA | {"target_modules": ["c_attn"]})
    with pytest.raises(UserError, match="a row has 49 tokens"):
        adapted(input_ids=torch.ones(1, 49, dtype=torch.long))
    engine = Engine(model, [])
    (answer,) = engine.complete([Request([1] * 45, "key")], Sampling(max_new_tokens=9))
    assert len(answer.completion_ids) == 3
    with pytest.raises(UserError, match="gpt2: a prompt has 48 tokens, and the model 48 positions"):
        engine.complete([Request([1] * 48, "key")], Sampling(max_new_tokens=9))
