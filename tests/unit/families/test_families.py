"""A model's family is found from its config; models of no known family are refused before their weights are read."""

from __future__ import annotations

import pytest
from transformers import BartConfig, CLIPConfig, GPT2Config, LlamaConfig, T5Config

import tiny
from ft.errors import UserError
from ft.families import CAUSAL, SEQ2SEQ, family_of
from ft.fit.shapes import build_on_meta
from ft.models.load import load_base
from ft.recipe import ModelSource


@pytest.mark.parametrize("config", [LlamaConfig(**tiny.SMALL), GPT2Config()], ids=["llama", "gpt2"])
def test_decoders_are_causal(config):
    assert family_of(config, "model") is CAUSAL


@pytest.mark.parametrize("config", [T5Config(), BartConfig()], ids=["t5", "bart"])
def test_an_encoder_decoder_is_never_read_as_its_decoder_alone(config):
    assert family_of(config, "model") is SEQ2SEQ


def test_a_model_of_no_family_is_refused_wherever_a_model_is_made(tmp_path):
    config = CLIPConfig()
    config.save_pretrained(str(tmp_path))
    words = "ft knows no models of type 'clip'"
    with pytest.raises(UserError, match=words) as refused:
        load_base(ModelSource(str(tmp_path)), "float32", None, use_cpu=True)
    assert str(refused.value).startswith(str(tmp_path))
    with pytest.raises(UserError, match=words):
        build_on_meta(config)
