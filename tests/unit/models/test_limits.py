"""What the model at hand cannot do is said before training, in ft's words: by the plan where config.json tells."""

from __future__ import annotations

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


@pytest.fixture
def tied(tmp_path: Path, base: Path) -> Path:
    folder = Path(shutil.copytree(base, tmp_path / "tied"))
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "tie_word_embeddings": True})
    return folder


def test_adapters_that_cannot_be_trained_are_refused_by_the_plan_all_at_once(tmp_path, tied, data):
    blocks = {
        "first": {"init_lora_weights": "corda"},
        "second": {"init_lora_weights": "eva"},
        "third": {"target_modules": ["q_proj", "lm_head"]},
        "fourth": {"trainable_token_indices": [1, 2]},
    }
    lines = problems(tmp_path, tied, data, *(tiny.sft(data, name=n, lora=tiny.LORA | b) for n, b in blocks.items()))
    words = ("corda needs data", "eva needs data", "lm_head is not trained", "trainable_token_indices")
    assert len(lines) == 4
    for line, name, word in zip(lines, blocks, words, strict=True):
        assert "tiny.yaml:" in line
        assert f"'{name}'" in line
        assert word in line


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


def test_learnt_positions_that_the_file_does_not_tell_apart_are_refused_before_training(tmp_path, data):
    size = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 259}
    model = OPTForCausalLM(OPTConfig(**size, max_position_embeddings=20, word_embed_proj_dim=32, pad_token_id=0))
    there = planned(tmp_path, saved(model, tmp_path / "opt"), data)
    with pytest.raises(UserError, match=r"a row has \d+ tokens, and the model 20 positions"):
        trainer_of(tiny.job(there, "sft"))


@pytest.mark.parametrize(("scaling", "warned"), [({}, True), ({"rope_type": "yarn", "factor": 4.0}, False)])
def test_rows_longer_than_rotary_positions_are_warned_of_unless_they_are_scaled(
    scaling, warned, tmp_path, data, caplog
):
    config = tiny.config(tiny.tokenizer())
    config.max_position_embeddings = 20
    config.rope_parameters = {**config.rope_parameters, **scaling}
    there = planned(tmp_path, saved(LlamaForCausalLM(config), tmp_path / "llama"), data)
    with caplog.at_level(logging.WARNING):
        trainer_of(tiny.job(there, "sft"))
    assert ("and the model 20 positions" in caplog.text) is warned


def test_ids_without_an_embedding_are_refused_before_training(tmp_path, data):
    torch.manual_seed(0)
    config = tiny.config(tiny.tokenizer())
    config.vocab_size, config.pad_token_id, config.eos_token_id = 257, 0, 256
    there = planned(tmp_path, saved(LlamaForCausalLM(config), tmp_path / "small"), data)
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
